"""Shared by tests that run the real entry on real files."""

import inspect
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

compile_of_torch = torch.compile  # which tests put another in the place of

# tests run side by side, and two threads of one process would wait for each other: many times slower at these sizes
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write tests/golden/losses.csv before it is compared")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Skip what an old torch cannot compile."""
    try:
        return (yield)
    except RuntimeError as error:
        old = "recompile_limit" not in inspect.signature(compile_of_torch).parameters
        if old and "compile=True needs torch" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 classes of noisy colours: 40 train and 12 test images each, of 16 pixels, PNG and JPEG."""
    from PIL import Image  # here, since the optimizers' tests do without the suite and its packages

    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in {"train": 40, "test": 12}.items():
        for label, name in enumerate(("amber", "birch", "cedar")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.normal(100 + 40 * label, 60, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:03d}.{'png' if i % 2 else 'jpg'}")
    return root


@pytest.fixture
def entry(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Run the command line in this process on the photos; return the summaries of its output folder."""
    from rootfree import train

    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> list[dict[str, Any]]:
        monkeypatch.setattr("sys.argv", ["rootfree.train", *tiny(photos), *words])
        train.main()
        return [json.loads(file.read_text()) for file in sorted(tmp_path.glob("outputs/*/summary.json"))]

    return call


def tiny(photos: Path) -> list[str]:
    """Settings of a run that takes a fraction of a second; what comes later on a command line wins."""
    return [
        "dataset=image_folder",
        f"dataset.root={photos}",
        "dataset.name=photos",
        "dataset.image_size=16",
        "dataset.batch_size=16",
        f"dataset.cache={photos.parent}/cache",
        "trainer.epochs=2",
        "wandb.mode=disabled",
    ]
