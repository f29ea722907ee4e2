"""Folders as users have them: leftovers, odd suffixes and places, damaged images, hostile paths, little memory."""

import re
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder

from rootfree.data import large_image_folder as large
from rootfree.data.image_folder import image_folder
from rootfree.data.large_image_folder import FileSplits, large_image_folder
from rootfree.data.splits import TensorSplits
from rootfree.losses import weighted_cross_entropy

CPU = torch.device("cpu")


@pytest.fixture
def root(photos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photos, tmp_path / "photos"))


def small(root: Path, cache: Path) -> TensorSplits:
    return image_folder(str(root), "photos", image_size=16, cache=str(cache))


def streamed(root: Path, cache: Path, **settings: int) -> FileSplits:
    return large_image_folder(str(root), "photos", image_size=12, batch_size=16, cache=str(cache), **settings)


def test_leftovers_change_nothing_and_are_not_worth_a_word(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = small(root, tmp_path)
    capsys.readouterr()
    amber = root / "train" / "amber"
    for folder in (amber, root / "train", root):
        for name in (".ipynb_checkpoints", "__MACOSX/amber", "@eaDir/000.jpg"):
            (folder / name).mkdir(parents=True)
            (folder / name / "000.jpg").write_bytes(b"no image")
        for name in ("._000.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (folder / name).write_bytes(b"\0\5\26\7")
    after = small(root, tmp_path)
    assert (after.fingerprint, after.classes) == (before.fingerprint, before.classes)
    assert "not read" not in capsys.readouterr().out


def test_all_images_that_torchvision_finds_are_read_and_all_other_files_counted_once(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    amber = root / "train" / "amber"
    (amber / "more" / "yet").mkdir(parents=True)
    for i in range(10):
        (amber / f"00{i}.{'png' if i % 2 else 'jpg'}").rename(
            amber / "more" / "yet" / f"{i}.{'png' if i % 2 else 'jpg'}"
        )
    for i, suffix in enumerate(("jfif", "JPE", "pgm", "jp2", "tga")):
        Image.new("RGB", (16, 16), (40 * i, 0, 0)).save(amber / f"odd.{suffix}")
    (amber / "notes.txt").touch()
    (root / "train" / "labels.csv").touch()
    (root / "LICENSE").touch()
    (root / "docs").mkdir()
    shutil.copytree(root / "test", root / "val")
    (root / "val" / "readme.txt").touch()
    for _ in range(2):
        data = small(root, tmp_path)
    known = len(ImageFolder(str(root / "train")))  # of the odd suffixes it knows .pgm alone
    assert len(data.train) + len(data.val) == known + 4 == 125
    assert sum(data.class_counts.values()) == len(data.train)
    assert data.class_counts["amber"] > data.class_counts["birch"] == data.class_counts["cedar"] == 36
    others = "1 .csv beside the class folders, 1 .txt, docs/, 37 in val/, 1 without suffix"
    assert capsys.readouterr().out.count(f"{root}: not read: {others}\n") == 1
    assert streamed(root, tmp_path).class_counts == data.class_counts
    assert "not read" not in capsys.readouterr().out  # nor for another reader of the same folder


@pytest.mark.parametrize("read", [small, streamed])
def test_all_damaged_images_are_named_at_once(read: object, root: Path, tmp_path: Path) -> None:
    damaged = [root / "train/amber/000.jpg", root / "train/birch/000.jpg", root / "test/cedar/001.png"]
    for file in damaged:
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="not a readable image") as caught:
        read(root, tmp_path)  # type: ignore[operator]
    assert sorted(re.findall(r"(\S+) is not a readable image", str(caught.value))) == sorted(map(str, damaged))
    assert str(caught.value).endswith("Repair or remove them")


def test_paths_are_taken_as_they_are(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    odd = Path("~") / "Bilder für Müller [1] (neu) 李明 a=b, *?"
    shutil.copytree(root, odd.expanduser())
    cache = Path("~") / "cache [2]"
    assert small(odd, cache).fingerprint == small(root, cache).fingerprint
    assert len(list(cache.expanduser().glob("*.pt"))) == 2
    assert streamed(odd, cache).fingerprint == streamed(root, cache).fingerprint


def test_workers_without_room_in_shared_memory_are_refused_with_the_remedy(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = namedtuple("room", "free")(16 * 3 * 12 * 12 * 5 - 1)  # two batches for each of two workers, and one in use
    monkeypatch.setattr("shutil.disk_usage", lambda _: room)
    monkeypatch.setattr(large, "SHARED_MEMORY", tmp_path)
    data = streamed(photos, tmp_path)
    with pytest.raises(ValueError, match=r"need 0 MB in .* has 0 MB: make it larger \(docker .*dataset.workers=0"):
        data.batches(data.train, CPU, 16)
    data.batches(data.train, CPU, 15)
    monkeypatch.undo()
    alone = streamed(photos, tmp_path, workers=0)
    assert len(alone.batches(alone.train, CPU, 16)) == 7


def slow(_: Image.Image) -> Tensor:
    time.sleep(3)
    raise RuntimeError("nobody waits for this")


def test_a_batch_that_never_comes_ends_the_run_with_the_remedy(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "TIMEOUT", 1)
    data = streamed(photos, tmp_path, workers=1)
    object.__setattr__(data, "plain", slow)
    with pytest.raises(RuntimeError, match=r"no batch came within 1 s: .*/dev/shm be full.* dataset.workers=0"):
        next(iter(data.batches(data.val, CPU, 1)))


def test_weights_of_classes_are_factors_of_the_loss() -> None:
    logits, labels = torch.randn(8, 3), torch.arange(8) % 3
    plain = torch.nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.0)
    weight = torch.tensor([1.0, 3.0, 7.0])
    torch.testing.assert_close(weighted_cross_entropy(logits, labels, [1, 3, 7]), (weight[labels] * plain).mean())
    for target in (labels, torch.softmax(torch.randn(8, 3), 1)):
        expected = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1)
        for weights in (None, [1.0, 1.0, 1.0]):
            torch.testing.assert_close(weighted_cross_entropy(logits, target, weights, 0.1), expected)
    with pytest.raises(
        ValueError, match=r"loss.weight = \[1, 3\] is not allowed: it has 2 numbers, and there are 3 cl"
    ):
        weighted_cross_entropy(logits, labels, [1, 3])
