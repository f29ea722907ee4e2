"""Several processes train one run as one would, and end clearly when one of them dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


class Double(nn.Module):
    """A network without batch statistics, in float64: what several processes add up must be what one does."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        flat = 6 * (image_size // 4) ** 2
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, 4, 1), nn.GELU(), nn.Flatten(), nn.LayerNorm(flat), nn.Linear(flat, num_classes)
        ).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.double())


def command(photos: Path, outputs: Path, *words: str, ranks: bool) -> list[str]:
    model = ["model._target_=test_distributed.Double", "~model.stem_stride", "tuned=none", "optimizer.lr=0.01"]
    own = ["-m", "rootfree.train", *tiny(photos), *model, f"outputs={outputs}", *words]
    return [sys.executable, *(TORCHRUN if ranks else []), *own]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}", "OMP_NUM_THREADS": "1"}


def train(photos: Path, outputs: Path, *words: str, ranks: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    line = command(photos, outputs, *words, ranks=ranks)
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (folder,) = outputs.glob("*/summary.json")
    metrics = (folder.parent / "metrics.jsonl").read_text().splitlines()
    return json.loads(folder.read_text()), [json.loads(metric) for metric in metrics]


@pytest.mark.parametrize("words", [["optimizer=rf_rmsprop"], ["optimizer=if_shampoo", "trainer.accumulate=3"]])
def test_two_processes_train_as_one(photos: Path, tmp_path: Path, words: list[str]) -> None:
    # 108 training images in batches of 25: two parts of unequal size, and a last batch of 8
    words = [*words, "dataset.batch_size=25", "trainer.eval_batch_size=7"]
    one, alone = train(photos, tmp_path / "one", *words, ranks=False)
    two, together = train(photos, tmp_path / "two", *words, ranks=True)
    assert one["run_id"] == two["run_id"]
    assert two["device"].startswith("2 x cpu")
    assert len(alone) == len(together) == 2
    for before, after in zip(alone, together, strict=True):
        for key in ("loss", "train_loss", "val_loss"):
            assert after[key] == pytest.approx(before[key], rel=1e-10)
        assert after["val_acc"] == before["val_acc"]
    assert two["test_loss"] == pytest.approx(one["test_loss"], rel=1e-10)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_run(photos: Path, tmp_path: Path, victim: int) -> None:
    line = command(photos, tmp_path, "trainer.epochs=100000", ranks=True)
    with subprocess.Popen(
        line, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*/checkpoint.pt")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(ranks_of(run.pid)[victim], signal.SIGKILL)
        assert run.wait(timeout=60) != 0
    (folder,) = (file.parent for file in tmp_path.glob("*/checkpoint.pt"))
    assert not (folder / "summary.json").exists()
    if victim:  # rank 0 lived to tell
        assert json.loads((folder / "failure.json").read_text())["status"] in ("failed", "interrupted")


def ranks_of(launcher: int) -> dict[int, int]:
    """Process ids by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"PPid:\t{launcher}\n" in (folder / "status").read_text():
                variables = (folder / "environ").read_bytes().decode().split("\0")
                found[next(int(v.partition("=")[2]) for v in variables if v.startswith("RANK="))] = int(folder.name)
        except (OSError, StopIteration):
            continue
    return found
