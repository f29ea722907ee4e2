"""What README and docs say exists: every link has a target, every command runs what it says, up to the training."""

import os
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rootfree.settings import RunConfig, check_settings
from rootfree.sweep import grid

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = "<!-- results -->"  # what stands between two of them is generated
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
TREE = ("configs", "docs", "experiments", "results", "rootfree", "scripts", "tests")
# they train, remove or install something in their recipe: only whether make knows them
DRY = {"setup", "lint", "types", "test", "test-slow", "test-torch", "smoke", "check-report", "pack", "unpack"}
DRY |= {"wandb-sync", "clean"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def written(page: Path) -> str:
    """A page without its generated block."""
    first, *rest = page.read_text().split(f"{MARK}\n")
    return first + rest[-1] if rest else first


def commands(page: Path) -> list[str]:
    """The shell commands of a page: in code blocks, and between backticks in its prose."""
    text = written(page).replace("\\\n", " ")
    lines = [line for language, block in FENCED.findall(text) if language == "bash" for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", FENCED.sub("", text))
    found = [re.sub(r"<[^>]*>", "folder", line.partition(" #")[0]).strip() for line in lines]
    return list(dict.fromkeys(line for line in found if re.match(r"make [a-z]|\S*python -m rootfree", line)))


def anchors(page: Path) -> set[str]:
    """The places of a page that can be linked to, as GitHub names them."""
    text = FENCED.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return plain | set(re.findall(r'<a id="([^"]+)">', text))


@each_page
def test_every_link_has_a_target(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith("http"):
            continue
        name, _, place = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if place:
            assert place in anchors(target), link


@each_page
def test_every_path_that_is_named_exists(page: Path) -> None:
    for span in re.findall(r"`([^`\s]+)`", written(page)):
        if span.split("/")[0] in TREE and "/" in span and not set(span) & set("<*="):
            assert (ROOT / span).exists(), span


@each_page
def test_lines_can_be_read(page: Path) -> None:
    for line in LINK.sub("]", written(page)).splitlines():
        assert len(line) <= 120, line


def test_the_readme_fits_and_begins_with_a_command() -> None:
    lines = PAGES[0].read_text().splitlines()
    assert len(lines) <= 200
    assert any(line.startswith("make reproduce-cnn") for line in lines[:30])
    assert lines.count(MARK) == 2


@each_page
def test_every_command_is_understood(page: Path, own: Path) -> None:
    told = commands(page)
    trained = [words for command in told for words in trainings(command)]
    assert bool(trained) == any(
        re.search(r"rootfree\.train|make (reproduce|sweep|search)", command) for command in told
    )
    for words in trained:
        understood(words, own)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pages call `mine`."""
    folder = tmp_path_factory.mktemp("mine")
    for name, text in {
        "optimizer/lion.yaml": "_target_: timm.optim.Lion\n_partial_: true\nlr: 1.0e-3\n",
        "search/lion.yaml": "optimizer.lr: {low: 1.0e-4, high: 1.0e-2}\n",
    }.items():
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)
    return folder


def trainings(command: str) -> list[list[str]]:
    """The words of each `python -m rootfree.train` that a command comes to."""
    words = shlex.split(command)
    if words[0] != "make":
        return [words[words.index("rootfree.train") + 1 :]]
    dry = bool(DRY & set(words))
    # echo stands for Python, and the environment counts as set up
    arguments = ["--dry-run"] if dry else ["PY=echo", "--old-file=.venv/.stamp", "--silent"]
    outer = ("MAKE", "MFLAGS", "ARGS", "SCALE", "JOBS", "DRYRUN", "NAME")  # of the `make test` that may run this
    clean = {key: value for key, value in os.environ.items() if not key.startswith(outer)}
    done = subprocess.run([*words, *arguments], cwd=ROOT, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    lines = [line.split() for line in done.stdout.splitlines()]
    return [] if dry else [line[2:] for line in lines if line[:2] == ["-m", "rootfree.train"]]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("seed=range(3) x=[1,2]", ["seed=range(3)", "x=[1,2]"]),
        ("x=1 --config-dir=mine", ["--config-dir=mine", "x=1"]),
        ("'outputs=/my runs/a=1' dataset.root=/data/Müller", ["outputs=/my runs/a=1", "dataset.root=/data/Müller"]),
        ("'outputs=\"~/runs\"'", ['outputs="~/runs"']),
        ("x=it\\'s", ["x=it's"]),
    ],
)
def test_make_hands_on_words_as_a_shell_reads_them(given: str, words: list[str]) -> None:
    show = ["PY=printf '%s\\n'", "--old-file=.venv/.stamp", "--silent"]
    done = subprocess.run(["make", "sweep", f"ARGS={given}", *show], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trained, _, reported = done.stdout.partition("-m\nrootfree\nreport\n")
    assert [line for line in trained.splitlines()[2:] if line != "-m"] == words
    folder = next((word[8:].strip('"') for word in words if word.startswith("outputs=")), "outputs")
    assert reported.startswith(f"{Path(folder).expanduser()}/report\n--outputs\n{Path(folder).expanduser()}\n")


def test_make_refuses_a_quote_that_is_not_closed() -> None:
    done = subprocess.run(["make", "sweep", "ARGS='outputs=/my runs"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "ARGS = 'outputs=/my runs cannot be read" in done.stderr


def understood(words: list[str], own: Path) -> None:
    """Compose what a command would train, and check its settings; of a sweep those of its last run."""
    plain = [word for word in words if not word.startswith("-")]
    if "--config-dir=mine" in words:
        plain.append(f"hydra.searchpath=[file://{own}]")
    launchers = [word for word in plain if word.startswith("hydra/launcher=")]
    for word in launchers:  # their plug-ins are extras
        assert (ROOT / "configs" / f"{word.replace('=', '/')}.yaml").exists(), word
    plain = [word for word in plain if not word.startswith(("hydra/launcher=", "hydra.launcher."))]
    preset = next((word for word in plain if word.startswith("+experiments/")), "")
    assert not preset or (ROOT / f"{preset[1:].replace('=', '/')}.yaml").exists(), preset
    if plain not in ([preset], ["plan=true", preset], [preset, "plan=true"]):  # all of a preset is checked elsewhere
        check_settings([run_of(tuple(grid({}, plain)[-1]))])


@cache
def run_of(words: tuple[str, ...]) -> RunConfig:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        settings = compose("train", list(words), return_hydra_config=True)
    return RunConfig.of(settings, settings.hydra, in_sweep=False)
