"""Several processes train one run as one would, and end clearly when one of them dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest
from conftest import tiny
from forked import Forked
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]


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


MODEL = ["model._target_=test_distributed.Double", "~model.stem_stride", "tuned=none", "optimizer.lr=0.01"]


def pair(*words: str, **options: Any) -> list[Forked]:
    """Two processes that train together, as `torchrun` starts them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **options}
    return [Forked(*words, RANK=rank, LOCAL_RANK=rank, **shared) for rank in "01"]


def test_two_processes_train_as_one(photos: Path, tmp_path: Path, entry: Callable[..., list[dict[str, Any]]]) -> None:
    # 108 training images in batches of 25: two parts of unequal size, and a last batch of 8
    shared = [*MODEL, "dataset.batch_size=25", "trainer.eval_batch_size=7"]
    runs = [["optimizer=rf_rmsprop"], ["optimizer=if_shampoo", "trainer.accumulate=3"]]
    for words in runs:
        alone = {run["run_id"]: run for run in entry(*shared, *words)}
        said = tmp_path / f"{words[0]}.txt"
        for process in pair("train", *tiny(photos), *shared, *words, f"outputs={tmp_path}/pair", output=said):
            with process:
                assert process.wait() == 0, said.read_text()
    together = {run["run_id"]: run for run in map(read, (tmp_path / "pair").glob("*/summary.json"))}
    assert together.keys() == alone.keys()
    assert len(alone) == 2
    for run_id, run in alone.items():
        assert together[run_id]["device"].startswith("2 x cpu")
        assert together[run_id]["test_loss"] == pytest.approx(run["test_loss"], rel=1e-10)
        curves = [lines(tmp_path / outputs / run_id / "metrics.jsonl") for outputs in ("outputs", "pair")]
        assert len(curves[0]) == len(curves[1]) == 2
        for before, after in zip(*curves, strict=True):
            for key in ("loss", "train_loss", "val_loss"):
                assert after[key] == pytest.approx(before[key], rel=1e-10)
            assert after["val_acc"] == before["val_acc"]


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


ENDLESS = [*MODEL, "trainer.epochs=100000"]


def wait_for_checkpoint(outputs: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(outputs.glob("*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)


def test_the_main_process_that_dies_ends_the_run(photos: Path, tmp_path: Path) -> None:
    main, other = pair("train", *tiny(photos), *ENDLESS, f"outputs={tmp_path}")
    with main, other:
        wait_for_checkpoint(tmp_path)
        main.kill()
        assert other.wait(60) != 0
    assert not list(tmp_path.glob("*/summary.json"))


def test_another_process_that_dies_ends_the_run_of_torchrun(photos: Path, tmp_path: Path) -> None:
    words = [*tiny(photos), *ENDLESS, f"outputs={tmp_path}"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    with subprocess.Popen(
        [*launcher, "-m", "rootfree.train", *words], cwd=ROOT, env=environment, stdout=DEVNULL, stderr=DEVNULL
    ) as run:
        wait_for_checkpoint(tmp_path)
        os.kill(ranks_of(run.pid)[1], signal.SIGKILL)
        assert run.wait(timeout=60) != 0
    (folder,) = (file.parent for file in tmp_path.glob("*/checkpoint.pt"))
    assert not (folder / "summary.json").exists()
    # the main process lived to tell
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
