"""One direction: nothing later in the chain from config to report is imported by anything earlier."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = {  # what each part may import of this package; a part not named here may import itself alone
    "rootfree.train": {
        "rootfree.distributed",
        "rootfree.folder",
        "rootfree.progress",
        "rootfree.record",
        "rootfree.stop",
        "rootfree.trainer",
    },
    "rootfree.trainer": {
        "rootfree.clock",
        "rootfree.data",
        "rootfree.diagnostics",
        "rootfree.distributed",
        "rootfree.precision",
        "rootfree.progress",
        "rootfree.record",
        "rootfree.stop",
    },
    "rootfree.workers": {"rootfree.stop", "rootfree.train"},
    "rootfree.progress": {"rootfree.folder"},
    "rootfree.theory": {"rootfree.optim"},
    "rootfree.folder": {"rootfree.claim"},
    "rootfree.record": {"rootfree.claim", "rootfree.folder", "rootfree.mirror", "rootfree.stop"},
}


def part_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the layer"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("file", sorted(ROOT.glob("rootfree/**/*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    own, found = part_of(module), imports(file)
    inside = {part_of(name) for name in found if name.startswith("rootfree.")}
    assert inside <= PARTS.get(own, set()) | {own}
    assert (module == "rootfree.train") == any(name.split(".")[0] == "hydra" for name in found)
    if own == "rootfree.optim":
        assert {name.split(".")[0] for name in found} <= {"torch", "rootfree", *sys.stdlib_module_names}
    if own == "rootfree.analysis":
        assert "torch" not in {name.split(".")[0] for name in found}


@pytest.mark.parametrize("script", ["collect", "report", "restore", "status"])
def test_analysis_scripts_load_no_torch(script: str) -> None:
    code = f"import sys; sys.argv = ['x', '--help']; sys.path.insert(0, 'scripts'); import {script}; " + (
        "assert not {'torch', 'hydra', 'rootfree.train'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
