"""The loop and its record, through the real entry: same numbers again, after a kill, and honest ends."""

import csv
import hashlib
import inspect
import json
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import nn

from rootfree import numerics, train
from rootfree.data.image_folder import image_folder
from rootfree.data.splits import Split
from rootfree.models.resnet import resnet8
from rootfree.models.vit import vit_mini
from rootfree.precision import set_arithmetic
from rootfree.run.lock import RunLock
from rootfree.run.record import Record
from rootfree.settings import RunConfig
from rootfree.trainer import evaluate, fit, groups_without_decay

Entry = Callable[..., list[dict[str, Any]]]
ROOT = Path(__file__).parents[1]
LOSSES = ROOT / "tests" / "golden" / "losses.csv"
TIMES = ("seconds", "images_per_second", "data_ms", "optimizer_ms", "finished_at", "command", "commit", "dirty")
TIMES += ("peak_memory_bytes",)


def untimed(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in TIMES}


def lines(file: Path) -> list[dict[str, Any]]:
    return [untimed(json.loads(line)) for line in file.read_text().splitlines()]


def test_a_run_leaves_a_whole_record_and_is_not_run_twice(
    entry: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (summary,) = entry(f"outputs={tmp_path}/outputs")
    folder = tmp_path / "outputs" / summary["run_id"]
    assert {file.name for file in folder.iterdir()} == {"config.yaml", "metrics.jsonl", "summary.json"}
    needed = """run_id status epochs seconds images_per_second train_acc val_acc test_acc train_loss test_loss gap_acc
        gap_loss commit dirty versions device preset scale purpose dataset model optimizer arm seed study"""
    assert set(needed.split()) <= set(summary)
    assert (summary["status"], summary["epochs"], summary["dataset"]) == ("finished", 2, "photos")
    assert "outputs=" not in summary["command"]
    assert summary["gap_acc"] == summary["train_acc"] - summary["test_acc"]
    assert [line["epoch"] for line in lines(folder / "metrics.jsonl")] == [1, 2]
    capsys.readouterr()
    before = (folder / "summary.json").stat().st_mtime_ns
    entry()
    assert capsys.readouterr().out.splitlines()[0] == f"{summary['run_id']} resnet8 sgd seed 0: finished before"
    assert (folder / "summary.json").stat().st_mtime_ns == before


def test_same_seed_same_bits_and_another_seed_another_run(entry: Entry) -> None:
    (first,) = entry("outputs=outputs")
    (moved,) = json_of(entry, "outputs=elsewhere", "threads=1", "wandb.project=other")
    assert untimed(first) == untimed(moved)
    assert len(first["weights"]) == 16
    assert "dataset.root=<folder>" in first["command"], "a published command tells nobody's folders"
    assert "/cache" not in first["command"]
    _, other = sorted(entry("seed=1"), key=lambda summary: summary["seed"])
    assert other["run_id"] != first["run_id"]
    assert other["study"] == first["study"]
    assert other["weights"] != first["weights"]


def json_of(entry: Entry, *words: str) -> list[dict[str, Any]]:
    entry(*words)
    return [json.loads(file.read_text()) for file in Path("elsewhere").glob("*/summary.json")]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (FileNotFoundError, ValueError):  # not there yet
            pass
        time.sleep(0.01)
    raise TimeoutError


def test_divergence_is_a_result(entry: Entry) -> None:
    (summary,) = entry("optimizer.lr=1e30")
    assert (summary["status"], summary["epochs"], summary["test_acc"]) == ("diverged", 1, None)


def test_a_search_never_sees_test(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = evaluate
    monkeypatch.setattr("rootfree.trainer.evaluate", lambda m, f, b, n: (sizes.append(b.size), real(m, f, b, n))[1])
    (summary,) = entry("trainer.evaluate_test=false")
    assert (summary["purpose"], summary["test_acc"], summary["gap_acc"]) == ("search", None, None)
    assert 36 not in sizes
    entry("trainer.evaluate_test=true")
    assert sizes.count(36) == 1


def test_a_default_spelled_out_and_a_number_written_otherwise_are_the_same_run(entry: Entry) -> None:
    (run,) = entry("optimizer.momentum=0.0", "trainer.epochs=1")
    (again,) = entry("optimizer.momentum=0", "trainer.epochs=1", "trainer.clean_size=2000", "+trainer.clip_norm=null")
    assert again["run_id"] == run["run_id"]
    assert len(entry("optimizer.momentum=0", "trainer.epochs=1", "trainer.clip_norm=1")) == 2


def test_processes_make_another_run_only_where_they_change_the_step(
    entry: Entry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_id(count: int, *words: str) -> str:
        monkeypatch.setattr("rootfree.distributed.world_size", lambda: count)
        capsys.readouterr()
        entry("plan=true", *words)
        said = capsys.readouterr().out
        assert said.endswith(": to do\n")
        return said.splitlines()[-1].split()[0]

    plain = ["model._target_=test_distributed.Double", "~model.stem_stride"]
    assert run_id(1, *plain) == run_id(2, *plain)
    assert len({run_id(1), run_id(2), run_id(4)}) == 3  # batch statistics
    files = [
        "dataset._target_=rootfree.data.large_image_folder.large_image_folder",
        "~dataset.pad",
        "~dataset.label_noise",
        *plain,
    ]
    assert run_id(1, *files) == run_id(2, *files)
    mixed = [*files, "+dataset.mixup=0.2"]  # each process mixes the images of its own share
    assert run_id(1, *mixed) != run_id(2, *mixed)


def test_parts_of_a_batch_add_up_to_its_step(entry: Entry) -> None:
    words = ["model._target_=test_distributed.Double", "~model.stem_stride", "optimizer.lr=0.01", "trainer.epochs=1"]
    runs = [*entry(*words), *json_of(entry, *words, "trainer.accumulate=3", "outputs=elsewhere")]
    assert runs[1]["train_loss"] == pytest.approx(runs[0]["train_loss"], rel=1e-12)
    assert runs[1]["run_id"] != runs[0]["run_id"]


def test_low_precision_is_for_the_forward_pass_only(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rootfree.precision._fast", lambda *_: False)
    with pytest.warns(UserWarning, match="trainer.precision=bf16: this cpu has no units for it") as warned:
        entry("trainer.precision=bf16", "trainer.epochs=1")
    assert len([w for w in warned if "trainer.precision" in str(w.message)]) == 1
    monkeypatch.setattr("torch.amp.GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**22))  # will overflow
    with pytest.warns(UserWarning, match="fp16"):
        entry("trainer.precision=fp16", "trainer.epochs=1", "optimizer.lr=0.01")
    runs = {run["config"]["trainer"]["precision"]: run for run in entry("trainer.epochs=1", "optimizer.lr=0.01")}
    assert len(runs) == 3
    assert runs["fp16"]["state_bytes"] == runs["float32"]["state_bytes"]  # momentum stays in float32
    assert 0 < runs["fp16"]["skipped_steps"] < runs["fp16"]["steps"] == 7
    assert runs["fp16"]["train_loss"] != runs["float32"]["train_loss"]
    assert runs["float32"]["skipped_steps"] == 0


def test_gradients_are_clipped(entry: Entry, tmp_path: Path) -> None:
    (summary,) = entry("trainer.clip_norm=1e-3", "trainer.epochs=1")
    (line,) = lines(tmp_path / "outputs" / summary["run_id"] / "metrics.jsonl")
    assert line["grad_norm"] == pytest.approx(1e-3, rel=1e-3)


def test_an_average_of_the_weights_is_what_is_evaluated(entry: Entry) -> None:
    (plain,) = entry("trainer.epochs=3")
    runs = {run["config"]["trainer"]["ema_decay"]: run for run in (*entry("trainer.epochs=3", "trainer.ema_decay=0"),
            *entry("trainer.epochs=3", "trainer.ema_decay=0.9"))}  # fmt: skip
    assert runs[0]["weights"] == runs[0.9]["weights"] == plain["weights"]
    assert runs[0]["train_loss"] == plain["train_loss"]
    assert runs[0.9]["train_loss"] != plain["train_loss"]


@pytest.mark.parametrize("everywhere", [True, False])
def test_weight_decay_of_norms_and_biases_by_hand(everywhere: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    before = [param.detach().clone() for param in model.parameters()]
    groups = model.parameters() if everywhere else groups_without_decay(model)
    optimizer = torch.optim.SGD(groups, lr=0.5, weight_decay=0.1)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        decay = 0.1 if everywhere or new.ndim > 1 else 0.0
        torch.testing.assert_close(new.detach(), old - 0.5 * (1 + decay * old))


def test_compiled_it_computes_the_same(entry: Entry) -> None:
    words = ["model._target_=test_distributed.Double", "~model.stem_stride", "optimizer.lr=0.01", "trainer.epochs=1"]
    runs = [*entry(*words), *json_of(entry, *words, "trainer.compile=true", "outputs=elsewhere")]
    assert runs[1]["train_loss"] == pytest.approx(runs[0]["train_loss"], rel=1e-9)


def test_arithmetic_is_set_for_each_run() -> None:
    set_arithmetic(tf32=True, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.matmul.allow_tf32
    set_arithmetic(tf32=False, deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cuda.matmul.allow_tf32


def test_evaluation_leaves_batch_statistics_and_random_numbers_alone() -> None:
    from test_data import some_data

    data = some_data()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(5))
    batches = data.batches(data.val, torch.device("cpu"), 16)
    loss = nn.functional.cross_entropy
    evaluate(model, loss, batches, 5)
    state, rng = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    accuracy, mean_loss, *_ = evaluate(model, loss, batches, 5)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    images, labels = next(iter(data.batches(data.val, torch.device("cpu"), 50)))
    assert accuracy == pytest.approx((model(images).argmax(1) == labels).double().mean().item())
    assert mean_loss == pytest.approx(loss(model(images), labels).item(), rel=1e-5)  # uneven last batch


class Stubborn(nn.Module):
    """Says the second class, whatever it sees."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.0, 9.0, 0.0])[:num_classes])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1)


def test_a_model_that_predicts_one_class_is_told_from_one_that_learned(
    entry: Entry, capsys: pytest.CaptureFixture[str]
) -> None:
    said = r"the model predicts one class alone, so its accuracy of 33.33% is the share of that class"
    words = ["model._target_=test_trainer.Stubborn", "~model.stem_stride", "optimizer.lr=0", "trainer.epochs=1"]
    both = entry("hydra.mode=MULTIRUN", *words, "seed=0,1")
    summary, told = both[0], capsys.readouterr()
    named = re.findall(rf"warning: (\w+) .* seed \d: .*{said}", told.err)
    assert sorted(named) == sorted(run["run_id"] for run in both)
    assert told.out.count("photos: 108 training examples, 36 to 36 of each of 3 classes\n") == 1
    assert summary["val_predicted_classes"] == 1
    assert summary["val_balanced_acc"] == summary["test_balanced_acc"] == pytest.approx(1 / 3)

    data = [(torch.zeros(8, 3), torch.tensor([1, 1, 1, 1, 1, 0, 0, 1])), (torch.zeros(2, 3), torch.tensor([1, 1]))]
    batches = Mock(device="cpu", size=10, __iter__=lambda _: iter(data))
    found = evaluate(Stubborn(3, 32), nn.functional.cross_entropy, batches, 3)
    assert (found.acc, found.balanced_acc, found.predicted) == (pytest.approx(0.8), pytest.approx(0.5), 1)


def test_four_frames_from_the_command_to_the_step(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real = torch.optim.SGD.step

    def spy(self: Any, *arguments: Any) -> Any:
        stack = inspect.stack()
        seen.append([frame.function for frame in stack if Path(frame.filename).is_relative_to(ROOT / "rootfree")])
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    entry("trainer.epochs=1")
    assert seen[0] == ["step", "try_out", "run", "job", "main"]  # on a model of its own
    assert seen[1] == ["fit", "run", "job", "main"]


def in_float64(of: str, num_classes: int, image_size: int, **settings: Any) -> nn.Module:
    """A model of the suite whose weights are drawn, and whose images are seen, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        model = {"resnet8": resnet8, "vit_mini": vit_mini}[of](num_classes, image_size, **settings)
    finally:
        torch.set_default_dtype(torch.float32)
    model.register_forward_pre_hook(lambda _, images: images[0].double())
    return model


def built(group: str, name: str) -> Any:
    """What a yaml makes, for batches of 16."""
    block = OmegaConf.load(ROOT / "configs" / group / f"{name}.yaml")
    return instantiate(OmegaConf.create({"dataset": {"batch_size": 16}, group: block})[group], _convert_="all")


def test_refactoring_moves_no_numbers(entry: Entry, photos: Path, request: pytest.FixtureRequest) -> None:
    """An epoch of every optimizer ends with the loss it had before, on any processor, as all is done in float64.

    If this fails because results were meant to change, raise NUMERICS in run/identity.py and write the new losses:
    `pytest tests/test_trainer.py -n 0 -k moves_no_numbers --write-golden`. The same in a checkout of an older commit,
    with this file and conftest.py copied into it, writes the losses of that commit.
    """
    data = image_folder(str(photos), name="photos", image_size=16, batch_size=16, cache=f"{photos.parent}/cache")
    losses = {}
    for model, size in (("resnet8", {}), ("vit_mini", {"dim": 24, "depth": 1})):
        for file in sorted((ROOT / "configs" / "optimizer").glob("*.yaml")):
            torch.manual_seed(0)
            network = in_float64(model, **data.for_model, **size)
            record = Mock(title="golden", quiet=True, load_checkpoint=lambda: None)  # it keeps nothing
            losses[model, file.stem] = fit(
                network, nn.functional.cross_entropy, built("optimizer", file.stem), built("schedule", "multistep"),
                data, record, seed=0, device=torch.device("cpu"), epochs=1,
            )["train_loss"]  # fmt: skip
    if request.config.getoption("--write-golden"):
        rows = [f"{model},{name},{loss!r}\n" for (model, name), loss in losses.items()]
        LOSSES.write_text("".join(["model,optimizer,train_loss\n", *rows]))
    golden = {(row["model"], row["optimizer"]): float(row["train_loss"]) for row in csv.DictReader(LOSSES.open())}
    for model in ("resnet8", "vit_mini"):  # matrix products in bfloat16 are added up as the processor likes
        key = (model, "if_shampoo_bf16")
        assert losses.pop(key) == pytest.approx(golden.pop(key), rel=1e-5)
    assert {key: losses[key] for key in golden} == pytest.approx(golden, rel=1e-9)  # a new optimizer has no row yet

    double = ["model._target_=test_trainer.in_float64", "+model.of=resnet8", "schedule=multistep", "trainer.epochs=1"]
    (run,) = entry("optimizer=rf_rmsprop", "tuned=none", *double)
    assert run["train_loss"] == pytest.approx(golden["resnet8", "rf_rmsprop"], rel=1e-9), "the entry is not fit's"


def test_a_config_changed_under_a_half_finished_run_is_refused(
    entry: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (summary,) = entry()
    folder = tmp_path / "outputs" / summary["run_id"]
    (folder / "summary.json").unlink()
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("momentum: 0.9", "momentum: 0.8"))
    with pytest.raises(SystemExit) as end:
        entry()
    assert end.value.code == 2
    assert "optimizer.momentum is 0.8 there and 0.9 here" in capsys.readouterr().err
    assert not (folder / "summary.json").exists()


def test_two_processes_do_not_share_a_folder(entry: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (summary,) = entry()
    folder = tmp_path / "outputs" / summary["run_id"]
    (folder / "summary.json").unlink()
    capsys.readouterr()
    lock = RunLock(folder / "lock", tmp_path / "outputs" / "locks.lock", timeout=60)
    assert lock.acquire()
    entry()
    assert "already running elsewhere" in capsys.readouterr().out
    assert not (folder / "summary.json").exists()
    lock.release()
    assert len(entry()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer=lyon"], "there is no optimizer 'lyon': there are adam, adamw"),
        (["optimizer.lr=-1"], "optimizer.lr = -1 is not allowed: input should be greater than or equal to 0"),
        (["optimizer.nestrov=true"], "optimizer.nestrov = True is no argument of torch.optim.SGD, which takes"),
        (["trainer.epochs=0"], "trainer.epochs = 0 is not allowed: input should be greater than 0"),
        (["+experiments/cnn=desktop"], "there is no experiments/cnn 'desktop': there are gpu"),
        (["dataset.root=/nowhere"], "dataset.root = /nowhere is not a folder"),
        (
            ["dataset.batch_size=107"],
            "dataset.batch_size = 107 leaves a last batch of 1, of which a model with batch norm",
        ),
        (
            ["loss=weighted_cross_entropy", "loss.weight=[1,3]"],
            "loss.weight = [1, 3] is not allowed: it has 2 numbers, and there are 3 classes",
        ),
        (["optimizer._target_=torch.optim.Muon", "~optimizer.weight_decay"], "Muon only supports 2D parameters"),
        (["outputs=~/runs"], "outputs=~/runs cannot be read: quote the value twice, 'outputs=\"~/runs\"'"),
        (["experiments/cnn=smoke"], "use +experiments/cnn=smoke"),
        (["sede=1"], "To append to your config use +sede=1 Key 'sede' is not in struct"),
        (["dataset.batch_size=16", "outputs=/proc/none"], "/proc/none"),
        (["device=abacus"], "device = 'abacus' does not work here"),
        (["model.stem_stride=0"], "model.stem_stride = 0 is not allowed: input should be greater than 0"),
        (["model=vit_mini", "model.heads=5"], "model.dim = 96 is not a multiple of model.heads = 5"),
        (["model=vit_mini", "model.patch=6"], "model.patch = 6 is not a power of two"),
        (["optimizer._target_=torch.optim.Nope"], "optimizer._target_ = torch.optim.Nope cannot be imported"),
        (["optimizer._target_=test_trainer.Never"], "this one never steps (optimizer: {'lr': "),
        (["loss.weight=[1,3,7]"], "loss.weight = [1, 3, 7] is not allowed: no setting can be a "),
        (["loss=weighted_cross_entropy", "loss.weight=[1,7]"], "it has 2 numbers, and there are 3 classes (loss: "),
        (
            ["dataset.batch_size=35", "trainer.accumulate=2"],
            "batch_size = 35, with trainer.accumulate = 2: of 108 examples one has a forward pass of its own, of",
        ),
        (["dataset.batch_size=1"], "dataset.batch_size = 1: of 108 examples one has a forward pass of its own"),
        (["tuned=photo-${model}-${optimizer}"], "there is no photo-resnet8-sgd.yaml in "),
        (["outputs=it's (1)"], """quote the value twice, 'outputs="it'"'"'s (1)"'"""),
        (["optimizer._target_=test_trainer.Forgetful"], "cannot be saved and loaded again: 'z' (optimizer: "),
        (
            ["optimizer._target_=test_trainer.Named", "trainer.decay_norms_and_biases=false"],
            "trainer.decay_norms_and_biases = False is not allowed: the optimizer takes named",
        ),
        (
            ["dataset._target_=test_trainer.annotated", "+dataset.whole=3"],
            "dataset.whole = 3 is not allowed: no setting can be a Split",
        ),
        (
            ["dataset._target_=test_trainer.annotated", "+dataset.rule.low=x"],
            "dataset.rule = {'low': 'x'} is not allowed: no setting can be a Rule",
        ),
        (["dataset._target_=test_trainer.unannotated", "+dataset.whole=3"], "this data set is never made"),
        (
            ["optimizer=muon", "optimizer.matrices.lr=0.1"],
            "matrices.lr = 0.1 is not allowed: lr is that of the matrices",
        ),
        (["optimizer=muon", "optimizer.rest.bets=1"], "optimizer.rest.bets = 1 is no argument of torch.optim.AdamW"),
        (["optimizer=muon", "optimizer.rest.eps=-1"], "Invalid epsilon value: -1"),
    ],
)
def test_bad_input_ends_in_a_line_or_two(
    entry: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        entry(*words)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) <= 2
    assert not list(tmp_path.glob("outputs/*/*"))


@dataclass
class Rule:
    low: float


def annotated(whole: Split, rule: Rule, **settings: Any) -> Any:
    """A data set that wants what yaml can give, and what it cannot."""


def unannotated(whole: "Nowhere", **settings: Any) -> Any:  # type: ignore[name-defined]  # noqa: F821
    """A data set whose annotation is there for a type checker alone."""
    raise ValueError("this data set is never made")


class Forgetful(torch.optim.SGD):
    """Loads nothing."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        raise KeyError("z")


class Never(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        raise AssertionError("this one never steps")


class Named(torch.optim.SGD):
    """What needs names, and the parameters of a real network."""

    def __init__(self, named_parameters: list[tuple[str, nn.Parameter]], lr: float, **settings: Any) -> None:
        assert any(name.endswith("bn1.weight") for name, _ in named_parameters)
        super().__init__([param for _, param in named_parameters], lr=lr, **settings)


def test_an_optimizer_that_asks_for_names_gets_them(entry: Entry) -> None:
    runs = [*entry("trainer.epochs=1"), *json_of(entry, "optimizer._target_=test_trainer.Named", "trainer.epochs=1",
                                                "outputs=elsewhere")]  # fmt: skip
    assert runs[0]["weights"] == runs[1]["weights"]
    assert runs[0]["run_id"] != runs[1]["run_id"]


class Broken:
    """A W&B that starts and then fails at every call."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError("no service")


@pytest.mark.parametrize("failure", ["no start", "no log"])
def test_wandb_failing_changes_nothing(entry: Entry, monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    (calm,) = entry()
    wandb = pytest.importorskip("wandb")

    def init(**_: Any) -> Any:
        if failure == "no start":
            raise wandb.Error("no server")
        return Broken()

    monkeypatch.setattr(wandb, "init", init)
    with pytest.warns(UserWarning, match="W&B does not work"):
        (mirrored,) = json_of(entry, "wandb.mode=offline", "outputs=elsewhere")
    assert untimed(mirrored) == untimed(calm)


KILLED = """
import sys, psutil
from pathlib import Path
from rootfree.run.wandb_logger import WandbLogger
logger = WandbLogger(Path(sys.argv[1]), {"run_id": "one", "preset": None}, "offline", "rootfree")
(service,) = (one for one in psutil.Process().children(recursive=True) if one.name().startswith("wandb"))
service.terminate()
service.wait()
for epoch in range(3):
    logger.log({"epoch": epoch, "loss": 1.0})
logger.close()
"""


def test_a_mirror_whose_service_is_killed_says_one_line(tmp_path: Path) -> None:
    """As at the time limit of a Slurm job, whose end reaches all of its processes."""
    pytest.importorskip("wandb")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("W&B does not work") == 1
    assert "Traceback" not in done.stderr


def test_wandb_mirrors_the_record_offline(entry: Entry, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    (summary,) = entry("wandb.mode=offline")
    (file,) = (tmp_path / "outputs" / summary["run_id"]).glob("wandb/offline-run-*/*.wandb")
    assert summary["run_id"] in file.name
    # a log of protocol buffers, strings in clear; W&B's service writes it, and on a busy machine a little later
    keys = ("val_acc", "gap_acc", "images_per_second", summary["weights"], repr(summary["val_acc"]))
    wait_for(lambda: all(key.encode() in file.read_bytes() for key in keys))


def test_after_a_run_that_fails_the_next_has_its_own_mirror(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    calls = []

    def fails_once(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("out of luck")
        return evaluate(*arguments)

    monkeypatch.setattr("rootfree.trainer.evaluate", fails_once)
    with pytest.raises(SystemExit) as end:
        entry("hydra.mode=MULTIRUN", "seed=range(2)", "wandb.mode=offline")
    assert end.value.code == 1
    folders = sorted(file.parent.name for file in tmp_path.glob("outputs/*/config.yaml"))
    mirrors = sorted(file.stem.removeprefix("run-") for file in tmp_path.glob("outputs/*/wandb/offline-run-*/*.wandb"))
    assert len(folders) == 2
    assert mirrors == folders


def test_every_setting_of_the_optimizer_names_the_arm(entry: Entry) -> None:
    assert [s["arm"] for s in entry("optimizer.nesterov=true")] == ["sgd optimizer.nesterov=true"]
    assert {s["arm"] for s in entry("tuned=none")} == {"sgd optimizer.nesterov=true", "sgd tuned=none"}


def test_a_users_own_optimizer_needs_one_yaml(entry: Entry, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "optimizer"
    folder.mkdir(parents=True)
    (folder / "lion.yaml").write_text("_target_: timm.optim.Lion\n_partial_: true\nlr: 1e-3\nbetas: [0.9, 0.98]\n")
    (summary,) = entry("optimizer=lion", f"--config-dir={tmp_path}/mine")
    assert (summary["status"], summary["arm"]) == ("finished", "lion")
    assert summary["config"]["optimizer"]["betas"] == [0.9, 0.98]


COMMANDS = {
    "plain": ["optimizer.nesterov=true", "schedule.milestones=[0.3,0.6]"],
    "added and deleted": ["+trainer.clip_norm=1.5", "++trainer.accumulate=1", "~loss.label_smoothing"],
    "quoted": ["wandb.project='a b'", "preset='x=y'"],
    "tuned numbers by interpolation": ["tuned=photos-${model}-${optimizer}", "--config-dir=mine"],
    "folders with a plus": ["++outputs=outputs", "++dataset.cache=cache"],
    "a sweep": ["hydra.mode=MULTIRUN", "optimizer=sgd", "seed=0,1"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_recorded_command_runs_the_same_again(
    entry: Entry, photos: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine/tuned").mkdir(parents=True)
    Path("mine/tuned/photos-resnet8-sgd.yaml").write_text("# @package _global_\noptimizer:\n  lr: 0.25\n")
    first = entry("trainer.epochs=1", *words)
    for summary in first:
        assert "{" not in summary["arm"].replace("${", "")
        assert not {"outputs", "cache"} & set(re.findall(r"\w+(?==)", summary["command"]))
        whole = summary["command"].replace("--config-dir=<folder>", "--config-dir=mine")
        again = shlex.split(whole.replace("<folder>", str(photos)))
        assert again[:3] == ["python", "-m", "rootfree.train"]
        monkeypatch.setattr("sys.argv", [*again[2:], "outputs=again"])
        train.main()
    found = {file.parent.name: json.loads(file.read_text()) for file in Path("again").glob("*/summary.json")}
    assert {run["run_id"]: run["arm"] for run in first} == {run_id: run["arm"] for run_id, run in found.items()}


def test_a_run_says_which_tuned_numbers_are_in_force(
    entry: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "tuned").mkdir(parents=True)
    (tmp_path / "mine" / "tuned" / "found.yaml").write_text("# @package _global_\noptimizer:\n  lr: 0.25\n")
    (summary,) = entry("tuned=found", "optimizer.momentum=0.5", f"--config-dir={tmp_path}/mine")
    assert summary["config"]["optimizer"]["lr"] == 0.25
    assert summary["tuned"] == "found"
    said = capsys.readouterr().out
    assert "tuned numbers: found.yaml, but for optimizer.momentum=0.5 (" in said
    assert "photos: 108 training examples, 36 to 36 of each of 3 classes\n" in said
    (plain,) = json_of(entry, "tuned=none", "outputs=elsewhere")
    assert plain["tuned"] is None
    assert "tuned numbers: none, the plain defaults" in capsys.readouterr().out


def test_a_yaml_that_is_changed_during_a_sweep_changes_no_run_of_it(
    entry: Entry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A launcher composes each run again, maybe hours later."""
    tuned, close = Path("mine/tuned/found.yaml"), Record.close
    tuned.parent.mkdir(parents=True)
    tuned.write_text("# @package _global_\noptimizer:\n  lr: 0.25\n")
    words = ["hydra.mode=MULTIRUN", "tuned=found", "seed=0,1", "trainer.epochs=1", "--config-dir=mine"]

    def change(self: Record, *arguments: Any) -> None:
        tuned.write_text(tuned.read_text().replace("0.25", "0.125"))
        close(self, *arguments)

    monkeypatch.setattr(Record, "close", change)
    with pytest.raises(SystemExit) as end:
        entry(*words)
    assert end.value.code == 1
    said = capsys.readouterr()
    assert "2 runs: 1 finished, 1 to do" in said.out
    assert "a yaml that this run reads was changed since the sweep began" in said.err
    monkeypatch.setattr(Record, "close", close)
    found = sorted((run["seed"], run["config"]["optimizer"]["lr"]) for run in entry(*words))
    assert found == [(0, 0.125), (0, 0.25), (1, 0.125)]


def numpys(progress: float) -> Any:
    """A schedule that returns a number of numpy, as most that are made with it do."""
    return np.cos(np.float32(progress))


def test_a_schedule_may_be_made_with_numpy(entry: Entry) -> None:
    (run,) = entry("schedule._target_=test_trainer.numpys", "~schedule.milestones", "~schedule.gamma")
    assert run["status"] == "finished"


def test_final_weights_are_kept_if_asked_for(entry: Entry, tmp_path: Path) -> None:
    (summary,) = entry("record.keep_weights=true", "trainer.epochs=1")
    weights = load_file(tmp_path / "outputs" / summary["run_id"] / "weights.safetensors")
    model = resnet8(num_classes=3, image_size=16)
    model.load_state_dict(weights)
    digest = hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in model.state_dict().values()))
    assert digest.hexdigest()[:16] == summary["weights"]


class Averaged(torch.optim.SGD):
    """Keeps other weights for evaluation than for training, as schedule-free methods do."""

    mode = "none"

    def train(self) -> None:
        Averaged.mode = "train"

    def eval(self) -> None:
        Averaged.mode = "eval"

    def step(self, closure: Any = None) -> Any:
        assert self.mode == "train"
        return super().step(closure)


def test_an_optimizer_with_modes_is_trained_and_evaluated_in_the_right_one(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real = [], evaluate
    monkeypatch.setattr("rootfree.trainer.evaluate", lambda *a: (seen.append(Averaged.mode), real(*a))[1])
    (summary,) = entry("optimizer._target_=test_trainer.Averaged")
    assert summary["status"] == "finished"
    assert seen == ["eval"] * 5  # train and val of two epochs, and test


@pytest.mark.parametrize("error", [RuntimeError("seed 1 fails"), SystemExit("seed 1 fails")])
def test_a_sweep_goes_on_past_a_run_that_fails(
    error: BaseException,
    entry: Entry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = train.run

    def run(config: RunConfig, run_id: str) -> None:
        if config.settings.seed == 1:
            raise error
        real(config, run_id)

    monkeypatch.setattr(train, "run", run)
    with pytest.raises(SystemExit) as end:
        entry("hydra.mode=MULTIRUN", "seed=range(3)")
    assert end.value.code == 1
    said = capsys.readouterr()
    assert "seed 1 fails" in said.err
    assert "3 runs: 2 finished, 1 to do" in said.out
    monkeypatch.setattr(train, "run", real)
    assert len(entry("hydra.mode=MULTIRUN", "seed=range(3)")) == 3
    assert "3 runs, 2 of them ended before" in capsys.readouterr().out


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not torch.__version__.startswith("2.14.1"), reason="other kernels"
)
def test_portable_numerics_end_with_the_same_weights_on_every_processor(tmp_path: Path) -> None:
    """These weights were reached on three kinds: AMD with AVX2 alone, AMD with AVX-512, Intel with AVX-512 and AMX."""
    words = "schedule=multistep trainer.epochs=3 optimizer=sgd tuned=none numerics=portable wandb.mode=disabled"
    where = [f"outputs={tmp_path}", f"dataset.cache={Path(__file__).parents[1]}/data/cache"]  # ten seconds to make
    command = [sys.executable, "-m", "rootfree.train", *words.split(), *where]
    subprocess.run(command, check=True, cwd=tmp_path)
    (file,) = tmp_path.glob("*/summary.json")
    summary = json.loads(file.read_text())
    assert summary["weights"] == "1494639672bc1451"
    assert ", portable)" in summary["device"]
    with pytest.raises(ValueError, match="numerics = portable comes too late"):
        numerics.choose("portable")
