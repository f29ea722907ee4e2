"""Data sets on real files, and the fast loader against an obvious loop."""

import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rootfree.data import cluttered_digits as digits
from rootfree.data.cifar import cifar
from rootfree.data.image_folder import image_folder
from rootfree.data.splits import Batches, Split, Splits, TensorSplits, hold_out

CPU = torch.device("cpu")


def some_data(count: int = 50, size: int = 12, pad: int = 2, flip: bool = True) -> TensorSplits:
    rng = torch.Generator().manual_seed(1)
    images = torch.randint(256, (count, 3, size, size), generator=rng, dtype=torch.uint8)
    split = Split(images, torch.arange(count) % 5)
    return TensorSplits("some", tuple("abcde"), split, split, split, "0", batch_size=16, pad=pad, flip=flip)


def gathered(batches: Batches) -> tuple[Tensor, Tensor]:
    parts = list(batches)
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def test_without_augmentation_batches_equal_an_obvious_loop() -> None:
    data = some_data()
    pixels = data.train.images.double()
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), unbiased=False)
    images, labels = gathered(data.batches(data.train, CPU, 16))
    slow = torch.stack([(image.double() - mean[:, None, None]) / std[:, None, None] for image in data.train.images])
    torch.testing.assert_close(images.double(), slow, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, data.train.labels)
    assert [len(y) for _, y in data.batches(data.train, CPU, 16)] == [16, 16, 16, 2]
    assert len(data.batches(data.train, CPU, 16)) == 4


def test_augmented_batches_equal_an_obvious_loop() -> None:
    data, pad = some_data(), 2
    images, labels = gathered(data.batches(data.train, CPU, 16, torch.Generator().manual_seed(3)))
    rng = torch.Generator().manual_seed(3)
    order = torch.randperm(50, generator=rng)
    offset = torch.randint((2 * pad + 1) ** 2, (50,), generator=rng)
    mirrored = torch.rand(50, generator=rng) < 0.5
    plain = data.batches(data.train, CPU, 50)
    for i in range(50):
        framed = np.zeros((3, 16, 16), np.uint8)
        framed[:, 2:14, 2:14] = data.train.images[order[i]].numpy()
        row, column = divmod(int(offset[i]), 5)
        cut = framed[:, row : row + 12, column : column + 12]
        cut = cut[:, :, ::-1].copy() if mirrored[i] else cut
        expected = (torch.from_numpy(cut).float() - plain.mean[0]) / plain.std[0]
        torch.testing.assert_close(images[i], expected)
        assert labels[i] == data.train.labels[order[i]]


def test_each_image_comes_once_per_epoch_in_an_order_that_the_seed_fixes() -> None:
    data = some_data(pad=0, flip=False)
    batches = [data.batches(data.train, CPU, 16, torch.Generator().manual_seed(7)) for _ in range(2)]
    first, again = gathered(batches[0])[0], gathered(batches[1])[0]
    second = gathered(batches[0])[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    plain = gathered(data.batches(data.train, CPU, 50))[0]
    for epoch in (first, second):
        assert {image.numpy().tobytes() for image in epoch} == {image.numpy().tobytes() for image in plain}


def test_crops_and_flips_are_uniform() -> None:
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[0, :, 4, 2] = 255  # one bright pixel tells offset and flip
    split = Split(image.expand(9000, -1, -1, -1).contiguous(), torch.zeros(9000, dtype=torch.long))
    data = TensorSplits("dot", ("a", "b"), split, split, split, "0", batch_size=9000, pad=1, flip=True)
    images, _ = gathered(data.batches(split, CPU, 9000, torch.Generator().manual_seed(0)))
    where = images[:, 0].flatten(1).argmax(1)
    counts = torch.bincount(where, minlength=64)
    assert (counts > 0).sum() == 18  # 9 offsets, mirrored or not
    assert abs(counts[counts > 0].double() - 500).max() < 5 * 500**0.5


def test_hold_out_is_stratified_seeded_and_refuses_too_few() -> None:
    split = Split(torch.arange(90).view(90, 1, 1, 1), torch.tensor([0] * 60 + [1] * 30))
    rest, held = hold_out(split, 10, seed=0)
    assert torch.bincount(held.labels).tolist() == [7, 3]
    assert {*rest.images.flatten().tolist()} | {*held.images.flatten().tolist()} == set(range(90))
    assert len(rest) == 80
    assert torch.equal(held.images, hold_out(split, 10, seed=0)[1].images)
    assert not torch.equal(held.images, hold_out(split, 10, seed=1)[1].images)
    with pytest.raises(ValueError, match="cannot hold out 89 of 90"):
        hold_out(split, 89, seed=0)


def test_cluttered_digits_are_the_same_everywhere_and_share_no_base_digit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bases: list[set[bytes]] = []
    real = digits._compose_split

    def spy(base: np.ndarray, *arguments: object) -> Split:
        bases.append({image.tobytes() for image in base})
        return real(base, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(digits, "_compose_split", spy)
    monkeypatch.setattr(digits, "COUNT", {"train": 200, "val": 100, "test": 100})
    digits._made.cache_clear()
    data = digits.cluttered_digits(cache=str(tmp_path))
    digits._made.cache_clear()
    assert [len(base) for base in bases] == [1000, 300, 497]
    assert not bases[0] & bases[1]
    assert not bases[2] & (bases[0] | bases[1])
    assert torch.bincount(data.train.labels).tolist() == [20] * 10
    assert data.train.images.shape == (200, 3, 32, 32)
    assert data.fingerprint == "0fac07646acd3741"
    again = digits.cluttered_digits(cache=str(tmp_path))  # from the file
    assert torch.equal(again.test.images, data.test.images)
    assert len(bases) == 3
    digits._made.cache_clear()


def folder(photos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photos, tmp_path / "copy"))


def opened(root: Path, tmp_path: Path, **settings: object) -> Splits:
    return image_folder(str(root), "photos", image_size=16, cache=str(tmp_path / "cache"), **settings)  # type: ignore[arg-type]


def test_image_folder_reads_what_is_there(photos: Path, tmp_path: Path) -> None:
    root = folder(photos, tmp_path)
    grey, palette = root / "train" / "amber" / "000.jpg", root / "train" / "amber" / "001.png"
    Image.open(grey).convert("L").resize((40, 20)).save(root / "train" / "amber" / "000.PNG")
    Image.open(palette).convert("P").save(palette)
    grey.unlink()
    data = opened(root, tmp_path, val_share=0.25)
    assert (data.classes, len(data.train), len(data.val), len(data.test)) == (("amber", "birch", "cedar"), 90, 30, 36)
    assert data.train.images.shape[1:] == (3, 16, 16)
    exact = np.asarray(Image.open(root / "test" / "birch" / "001.png"))
    assert torch.equal(data.test.images[13], torch.from_numpy(exact.copy()).permute(2, 0, 1))
    assert data.test.labels[13] == 1


def test_a_folder_is_known_by_its_pixels_not_its_path(photos: Path, tmp_path: Path) -> None:
    here, there = opened(photos, tmp_path), opened(folder(photos, tmp_path), tmp_path)
    assert here.fingerprint == there.fingerprint
    changed = tmp_path / "copy" / "test" / "cedar" / "001.png"
    Image.new("RGB", (16, 16)).save(changed)
    assert opened(tmp_path / "copy", tmp_path).fingerprint != here.fingerprint


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda r: shutil.rmtree(r), "is not a folder"),
        (lambda r: shutil.rmtree(r / "test"), "has no folder test or val"),
        (lambda r: [shutil.rmtree(f) for f in (r / "train").iterdir()], "has no class folders"),
        (lambda r: [f.unlink() for f in (r / "train" / "birch").iterdir()], "birch is an empty class"),
        (lambda r: [shutil.rmtree(r / s / c) for s in ("train", "test") for c in ("amber", "birch")], "only one class"),
        (lambda r: shutil.rmtree(r / "test" / "cedar"), "in one only: cedar"),
        (lambda r: (r / "train" / "cedar" / "003.png").write_bytes(b"\x89PNG no"), r"003.png is not a readable image"),
        (lambda r: swap(r / "train" / "cedar" / "005.png"), r"005.png is not a readable image"),
        (lambda r: truncate(r / "train" / "cedar" / "004.jpg"), r"004.jpg is not a readable image"),
    ],
)
def test_a_broken_folder_is_refused_by_name(photos: Path, tmp_path: Path, harm: object, words: str) -> None:
    root = folder(photos, tmp_path)
    harm(root)  # type: ignore[operator]
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        opened(root, tmp_path)


def swap(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[8:12] = b"\0\0\0\1"  # a header of one byte
    file.write_bytes(content)


def test_a_damaged_cache_says_what_to_remove(photos: Path, tmp_path: Path) -> None:
    opened(photos, tmp_path)
    (file,) = (tmp_path / "cache").glob("*.pt")
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"image_folder-.*.pt is damaged: remove it"):
        opened(photos, tmp_path)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def test_too_few_images_for_the_asked_split_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot hold out 119 of 120"):
        opened(photos, tmp_path, val_share=0.99)
    with pytest.raises(ValueError, match="train_size = 109 is not allowed: 108 images are left"):
        opened(photos, tmp_path, train_size=109)
    assert torch.bincount(opened(photos, tmp_path, train_size=60).train.labels).tolist() == [20, 20, 20]


def test_cifar_without_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(FileNotFoundError, match="is the network there"):
        cifar(10, root=str(tmp_path), cache=str(tmp_path), download=True)


def test_cifar_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"add dataset.download=true"):
        cifar(10, root=str(tmp_path), cache=str(tmp_path))
