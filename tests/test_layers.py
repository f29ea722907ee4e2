"""One direction: nothing later in the chain from config to report is imported by anything earlier."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = {  # what each part may import of this package, beside itself; a part not named here imports no other
    "__main__": {"analysis", "run", "train"},
    "analysis": {"run"},
    "checkpoint": {"diagnostics", "distributed"},
    "data": {"run"},
    "help": {"settings"},
    "progress": {"run"},
    "run": {"distributed", "numerics"},
    "search": {"analysis", "run", "search_table", "settings", "sweep"},
    "search_table": {"analysis", "run", "settings"},
    "sweep": {"distributed", "numerics", "progress", "run", "settings", "train", "trial"},
    "theory": {"optim"},
    "train": {"distributed", "help", "numerics", "run", "settings", "trainer", "trial"},
    "trial": {"distributed", "settings", "trainer"},
    "trainer": {"checkpoint", "clock", "data", "distributed", "precision", "progress", "run"},
}
WITH_HYDRA = {"help", "search", "settings", "sweep", "train"}


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the layer"
            found |= {f"rootfree.{alias.name}" for alias in node.names} if node.module == "rootfree" else {node.module}
    return found


@pytest.mark.parametrize("file", sorted(ROOT.glob("rootfree/**/*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    own, found = part_of(".".join(file.relative_to(ROOT).with_suffix("").parts)), imports(file)
    inside = {part_of(name) for name in found if name.split(".")[0] == "rootfree"}
    assert inside <= PARTS.get(own, set()) | {own, ""}
    assert own in WITH_HYDRA or not any(name.split(".")[0] == "hydra" for name in found)
    assert not any("._" in name for name in found), "nothing private of others"
    if own == "optim":
        assert {name.split(".")[0] for name in found} <= {"torch", "rootfree", *sys.stdlib_module_names}
    if own == "analysis":
        assert "torch" not in {name.split(".")[0] for name in found}


@pytest.mark.parametrize("file", sorted(ROOT.glob("scripts/*.py")), ids=lambda f: f.name)
def test_scripts_do_not_import_each_other(file: Path) -> None:
    assert not {name.split(".")[0] for name in imports(file)} & {other.stem for other in ROOT.glob("scripts/*.py")}


@pytest.mark.parametrize(
    "module", ["rootfree.run.status", "rootfree.help", "rootfree.__main__", "hydra_plugins.rootfree"]
)
def test_what_must_be_quick_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; assert not {{'torch', 'pandas'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
