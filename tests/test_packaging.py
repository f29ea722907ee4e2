"""The package as it is installed: a wheel without the checkout, and without what only some ask for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny

from rootfree.optim import multi_tensor

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the wheel is installed, without its dependencies; it lies in a repository of something else."""
    made = tmp_path_factory.mktemp("wheel")
    git = ["git", "-C", str(made), "-c", "user.name=x", "-c", "user.email=x"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message=x"], check=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", made, ROOT]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = made.glob("rootfree-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", made / "site", wheel], check=True)
    return made / "site"


def python(site: Path, *words: str, cwd: Path, code: int = 0) -> str:
    """What Python prints in a folder, with a package of another folder than this one."""
    environment = {**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(site.parent)}
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_a_wheel_holds_all_that_a_study_needs(site: Path, tmp_path: Path) -> None:
    where = "import rootfree.settings as s; print(s.CONFIGS); import hydra_plugins.rootfree as h; print(h.__file__)"
    configs, plugin = python(site, "-c", where, cwd=tmp_path).split()
    assert configs == str(site / "rootfree" / "configs")
    assert plugin == str(site / "hydra_plugins" / "rootfree.py")
    for folder in ("configs", "experiments"):
        files = {file.relative_to(ROOT / folder) for file in (ROOT / folder).rglob("*.yaml")}
        inside = site / "rootfree" / "configs" / ("" if folder == "configs" else folder)
        assert files <= {file.relative_to(inside) for file in inside.rglob("*.yaml")}
    templates = {file.name for file in (ROOT / "rootfree" / "analysis" / "templates").iterdir()}
    assert {file.name for file in (site / "rootfree" / "analysis" / "templates").iterdir()} >= templates
    assert (site / "rootfree" / "py.typed").exists()
    metadata = next(site.glob("rootfree-*.dist-info/METADATA")).read_text()
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert needed == ["Requires-Dist: torch>=2.4"]


def test_a_wheel_plans_trains_and_reports_in_an_empty_folder(site: Path, photos: Path, tmp_path: Path) -> None:
    train = ["-m", "rootfree.train", *tiny(photos)]
    plan = python(site, *train, "+experiments/cnn=smoke", "plan=true", cwd=tmp_path)
    assert "8 runs: 0 done, 8 to do" in plan
    assert not (tmp_path / "outputs").exists()
    python(site, *train, "optimizer=rf_rmsprop", cwd=tmp_path)
    (file,) = tmp_path.glob("outputs/*/summary.json")
    summary = json.loads(file.read_text())
    assert summary["status"] == "finished"
    assert summary["commit"] is None, "that of the repository around it is not the code's"
    said = python(site, "-m", "rootfree", "report", "tables", "--outputs", "outputs", cwd=tmp_path)
    assert "report: tables/index.html" in said


def test_an_installed_search_leaves_the_package_alone(site: Path, tmp_path: Path) -> None:
    code = (
        "from rootfree.search import folder_of; from types import SimpleNamespace as S; from pathlib import Path;"
        "from rootfree.settings import CONFIGS; settings = S(outputs='outputs/search');"
        "print(folder_of(S(folders=[CONFIGS], settings=settings), 'tuned'));"
        "print(folder_of(S(folders=[CONFIGS, Path('mine')], settings=settings)))"
    )
    assert python(site, "-c", code, cwd=tmp_path).split() == ["outputs/search/tuned", "mine/search"]


WITHOUT = """
import sys
sys.modules |= dict.fromkeys(("wandb", "pytorch_optimizer", "hydra_plugins.hydra_joblib_launcher", "torch_geometric"))
from rootfree.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 0, "W&B is not installed: runs are not mirrored"),
        (("wandb.mode=offline",), 2, "error: wandb.mode=offline needs W&B, which is not installed: pip install wandb"),
        (("-m", "seed=0,1", "plan=true"), 0, "2 runs: "),
        (
            ("-m", "hydra/launcher=local"),
            2,
            "error: there is no hydra/launcher 'joblib': it needs pip install 'rootfree[suite]'",
        ),
    ],
    ids=["default", "asked for", "sweep", "launcher"],
)
def test_the_suite_runs_without_what_only_some_ask_for(
    photos: Path, tmp_path: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    few = [word for word in tiny(photos) if not word.startswith("wandb")]
    said = python(ROOT, "-c", WITHOUT, "train", *words, *few, cwd=tmp_path, code=code)
    assert said.count(told) == 1
    assert len(list(tmp_path.glob("outputs/*/summary.json"))) == (not words)


def test_without_the_suite_a_command_says_what_installs_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['hydra'] = None; from rootfree.__main__ import main; main()"
    said = python(ROOT, "-c", code, "train", cwd=tmp_path, code=1)
    assert said.strip() == "rootfree train: hydra is not installed: pip install 'rootfree[suite]'"
    assert "report" in python(ROOT, "-m", "rootfree", "--help", cwd=tmp_path)


def test_a_torch_too_old_to_compile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compile", lambda model, *, fullgraph, dynamic, options: model)
    with pytest.raises(RuntimeError, match=r"compile=True needs torch 2\.12 or newer, this is \d"):
        multi_tensor.compiled.__wrapped__(print)
