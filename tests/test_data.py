"""Data sets on real files, and the fast loaders against obvious loops."""

import hashlib
import pickle
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2

from rootfree.data import cluttered_digits as digits
from rootfree.data.cifar import cifar
from rootfree.data.division import hold_out
from rootfree.data.download import download_folder
from rootfree.data.image_folder import image_folder, read_image
from rootfree.data.large_image_folder import MEAN, STD, Erasing, FileSplits, large_image_folder
from rootfree.data.splits import Batches, Files, Split, TensorSplits
from rootfree.data.tiny_imagenet import tiny_imagenet

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]


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
    pixels = data.train.inputs.double()
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), unbiased=False)
    images, labels = gathered(data.batches(data.train, CPU, 16))
    slow = torch.stack([(image.double() - mean[:, None, None]) / std[:, None, None] for image in data.train.inputs])
    torch.testing.assert_close(images.double(), slow, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, data.train.targets)
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
        framed[:, 2:14, 2:14] = data.train.inputs[order[i]].numpy()
        row, column = divmod(int(offset[i]), 5)
        cut = framed[:, row : row + 12, column : column + 12]
        cut = cut[:, :, ::-1].copy() if mirrored[i] else cut
        expected = (torch.from_numpy(cut).float() - plain.mean[0]) / plain.std[0]
        torch.testing.assert_close(images[i], expected)
        assert labels[i] == data.train.targets[order[i]]


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
    assert torch.bincount(held.targets).tolist() == [7, 3]
    assert {*rest.inputs.flatten().tolist()} | {*held.inputs.flatten().tolist()} == set(range(90))
    assert len(rest) == 80
    assert torch.equal(held.inputs, hold_out(split, 10, seed=0)[1].inputs)
    assert not torch.equal(held.inputs, hold_out(split, 10, seed=1)[1].inputs)
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
    assert torch.bincount(data.train.targets).tolist() == [20] * 10
    assert data.train.inputs.shape == (200, 3, 32, 32)
    assert data.fingerprint == "0fac07646acd3741"
    again = digits.cluttered_digits(cache=str(tmp_path))  # from the file
    assert torch.equal(again.test.inputs, data.test.inputs)
    assert len(bases) == 3
    digits._made.cache_clear()


def folder(photos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photos, tmp_path / "copy"))


def opened(root: Path, tmp_path: Path, **settings: object) -> TensorSplits:
    return image_folder(str(root), "photos", image_size=16, cache=str(tmp_path / "cache"), **settings)


def test_image_folder_reads_what_is_there(photos: Path, tmp_path: Path) -> None:
    root = folder(photos, tmp_path)
    grey, palette = root / "train" / "amber" / "000.jpg", root / "train" / "amber" / "001.png"
    Image.open(grey).convert("L").resize((40, 20)).save(root / "train" / "amber" / "000.PNG")
    Image.open(palette).convert("P").save(palette)
    grey.unlink()
    data = opened(root, tmp_path, val_share=0.25)
    assert (data.classes, len(data.train), len(data.val), len(data.test)) == (("amber", "birch", "cedar"), 90, 30, 36)
    assert data.train.inputs.shape[1:] == (3, 16, 16)
    exact = np.asarray(Image.open(root / "test" / "birch" / "001.png"))
    assert torch.equal(data.test.inputs[13], torch.from_numpy(exact.copy()).permute(2, 0, 1))
    assert data.test.targets[13] == 1


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
    assert torch.bincount(opened(photos, tmp_path, train_size=60).train.targets).tolist() == [20, 20, 20]


def test_cifar_without_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(FileNotFoundError, match="is the network there"):
        cifar(10, root=str(tmp_path), cache=str(tmp_path), download=True)


def test_cifar_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"add dataset.download=true"):
        cifar(10, root=str(tmp_path), cache=str(tmp_path))


@pytest.mark.parametrize(("kind", "labels"), [(10, "labels"), (100, "fine_labels")])
def test_cifar_is_read_once_then_served_from_one_file(
    kind: Any, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    folder, names = tmp_path / {10: "cifar-10-batches-py", 100: "cifar-100-python"}[kind], [str(i) for i in range(kind)]
    folder.mkdir()
    rng, files = np.random.default_rng(0), {10: [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]}
    pixels = {}
    for file in files.get(kind, ["train", "test"]):
        pixels[file] = rng.integers(256, size=(4 * kind, 3072), dtype=np.uint8)
        content = {"data": pixels[file], labels: [i % kind for i in range(4 * kind)]}
        (folder / file).write_bytes(pickle.dumps(content))
    meta = {10: ("batches.meta", "label_names"), 100: ("meta", "fine_label_names")}[kind]
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: names}))
    data = cifar(kind, root=str(tmp_path), val_size=kind, cache=str(tmp_path))
    assert (data.name, list(data.classes), len(data.val), len(data.test)) == (f"cifar{kind}", names, kind, 4 * kind)
    last = list(pixels)[-1]
    assert torch.equal(data.test.inputs.flatten(1), torch.from_numpy(pixels[last]))
    assert data.test.targets[kind + 3] == 3
    shutil.rmtree(folder)
    assert cifar(kind, root=str(tmp_path), val_size=kind, cache=str(tmp_path)).fingerprint == data.fingerprint


@pytest.mark.parametrize("name", ["plain.png", "SHOUTED.JPG", "grey.png", "palette.png", "cmyk.jpg", "deep.png",
                                  "clear.png", "turned.jpg", "deep.tif", "float.tif"])  # fmt: skip
def test_images_of_every_kind_become_upright_rgb_of_8_bits(name: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 24 * 16).reshape(16, 24).astype(np.uint8)
    colours = np.stack([ramp, ramp[::-1], ramp // 2], 2)
    image, expected, options = Image.fromarray(colours), colours, {}
    if name == "grey.png":
        image, expected = Image.fromarray(ramp), np.stack([ramp] * 3, 2)
    elif name == "palette.png":
        image = image.quantize(8)
        expected = np.asarray(image.convert("RGB"))
        options = {"transparency": bytes([0] * 8)}
    elif name == "cmyk.jpg":
        image = image.convert("CMYK")
    elif name.startswith("deep"):
        image, expected = Image.fromarray(ramp.astype(np.uint16) * 256 + 7), np.stack([ramp] * 3, 2)
    elif name == "clear.png":
        image.putalpha(0)
    elif name == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6  # what is up lies to the right
        options, expected = {"exif": exif}, np.rot90(colours, -1)
    elif name == "float.tif":
        image = Image.fromarray(ramp.astype(np.float32))
    image.save(tmp_path / name, **options)
    if name == "float.tif":
        with pytest.raises(ValueError, match=r"float.tif is not a readable image: .* mode F is not known"):
            read_image(tmp_path / name)
        return
    found = read_image(tmp_path / name)
    assert found.mode == "RGB"
    lossy = name.lower().endswith("jpg")
    np.testing.assert_allclose(np.asarray(found).astype(int), expected.astype(int), atol=40 if lossy else 0)


# large images: the same photos, as if they were large


def streamed(root: Path, tmp_path: Path, **settings: Any) -> FileSplits:
    plain = {"image_size": 12, "batch_size": 16, "workers": 0, "cache": str(tmp_path / "cache")}
    return large_image_folder(str(root), "photos", **(plain | settings))


def normalised(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in (MEAN, STD))
    return (image / 255 - mean) / std


def test_large_training_batches_equal_an_obvious_loop(photos: Path, tmp_path: Path) -> None:
    data = streamed(photos, tmp_path, scale=(0.3, 0.9), rand_augment=9, erasing=0.0)
    images, labels = gathered(data.batches(data.train, CPU, 16, torch.Generator().manual_seed(3)))
    rng = torch.Generator().manual_seed(3)
    order = torch.randperm(108, generator=rng)
    seeds = torch.randint(2**62, (108,), generator=rng)
    for i in range(108):
        torch.manual_seed(int(seeds[i]))
        image = Image.open(data.train.paths[order[i]]).convert("RGB")
        image = v2.RandomResizedCrop(12, (0.3, 0.9), interpolation=v2.InterpolationMode.BICUBIC)(image)
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < 0.5 else image
        image = v2.RandAugment(2, 9, interpolation=v2.InterpolationMode.BILINEAR)(image)
        image = v2.ColorJitter(0.4, 0.4, 0.4)(image)
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        torch.testing.assert_close(images[i], normalised(pixels), rtol=1e-5, atol=1e-5)
        assert labels[i] == data.train.targets[order[i]]


def test_large_evaluation_batches_equal_an_obvious_loop(photos: Path, tmp_path: Path) -> None:
    data = streamed(photos, tmp_path, crop=0.75)
    batches = data.batches(data.test, CPU, 10)
    images, labels = gathered(batches)
    for i, file in enumerate(file for name in data.classes for file in sorted((photos / "test" / name).iterdir())):
        cut = ImageOps.crop(Image.open(file).resize((16, 16), Image.Resampling.BICUBIC), 2)
        pixels = torch.from_numpy(np.asarray(cut).copy()).permute(2, 0, 1)
        torch.testing.assert_close(images[i], normalised(pixels), rtol=1e-5, atol=1e-5)
        assert data.classes[labels[i]] == file.parent.name
    assert [len(y) for _, y in batches] == [10, 10, 10, 6]
    assert next(iter(batches))[0].is_contiguous(memory_format=torch.channels_last)


def test_workers_and_resuming_change_no_pixel_and_no_other_random_number(photos: Path, tmp_path: Path) -> None:
    epochs, others = [], torch.get_rng_state()
    for workers in (0, 2):
        data = streamed(photos, tmp_path, workers=workers)
        generator = torch.Generator().manual_seed(7)
        batches = data.batches(data.train, CPU, 16, generator)
        next(iter(batches))  # left halfway
        gathered(batches)
        state = generator.get_state()
        epochs.append(gathered(batches))
    assert torch.equal(torch.get_rng_state(), others)
    generator.set_state(state)
    resumed = gathered(data.batches(data.train, CPU, 16, generator))
    for images, labels in (epochs[1], resumed):
        assert torch.equal(images, epochs[0][0])
        assert torch.equal(labels, epochs[0][1])


def in_memory(photos: Path, tmp_path: Path) -> Any:
    return opened(photos, tmp_path)


@pytest.mark.parametrize("make", [in_memory, streamed])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("world", [2, 3], ids=["2 ranks", "3 ranks"])
def test_the_shards_of_a_batch_are_the_batch(
    make: Callable[[Path, Path], Any], training: bool, world: int, photos: Path, tmp_path: Path
) -> None:
    data = make(photos, tmp_path)

    def batches(rank: int, world: int) -> Batches:
        generator = torch.Generator().manual_seed(1) if training else None
        return data.batches(data.train[torch.arange(100)], CPU, 33, generator, (rank, world))  # the last has one image

    whole, shards = batches(0, 1), [batches(rank, world) for rank in range(world)]
    for _ in range(2):  # epochs
        for (images, labels), *parts in zip(whole, *shards, strict=True):
            assert torch.equal(torch.cat([images for images, _ in parts]), images)
            assert torch.equal(torch.cat([labels for _, labels in parts]), labels)
            sizes = [len(labels) for _, labels in parts]
            assert max(sizes) - min(sizes) <= 1
    assert sorted(sizes) == [0] * (world - 1) + [1]
    assert {batch.size for batch in (whole, *shards)} == {100}


def test_the_last_batch_is_left_out_where_the_recipe_says_so(photos: Path, tmp_path: Path) -> None:
    data = streamed(photos, tmp_path, drop_last=True)
    training = data.batches(data.train, CPU, 16, torch.Generator())
    assert ([len(y) for _, y in training], training.size, len(training)) == ([16] * 6, 96, 6)
    assert data.batches(data.train, CPU, 16).size == 108
    with pytest.raises(ValueError, match="a batch of 109 is not allowed: there are 108 examples, and drop_last"):
        data.batches(data.train, CPU, 109, torch.Generator())


def test_mixed_images_have_mixed_labels_that_the_seed_fixes(photos: Path, tmp_path: Path) -> None:
    settings = {"drop_last": True, "scale": (1.0, 1.0), "flip": False, "color_jitter": 0.0, "erasing": 0.0}
    plain, mixed = (streamed(photos, tmp_path, mixup=mixup, **settings) for mixup in (0.0, 0.8))
    others = np.random.get_state()[1].tolist()  # noqa: NPY002
    (images, labels), again = (gathered(mixed.batches(mixed.train, CPU, 16, torch.Generator())) for _ in range(2))
    assert torch.equal(images, again[0])
    assert torch.equal(labels, again[1])
    assert np.random.get_state()[1].tolist() == others  # noqa: NPY002
    steps = plain.batches(plain.train, CPU, 16, torch.Generator())
    for (x, y), mix, probabilities in zip(steps, images.split(16), labels.split(16), strict=True):
        pairs = (y != y.flip(0)).nonzero()[0]
        share = probabilities[pairs, y[pairs]].view(())
        torch.testing.assert_close(mix, share * x + (1 - share) * x.flip(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(labels.sum(1), torch.ones(96))
    torch.nn.functional.cross_entropy(torch.randn(96, 3), labels, label_smoothing=0.1)
    cut = streamed(photos, tmp_path, cutmix=1.0, mixup=0.2, drop_last=True)
    assert gathered(cut.batches(cut.train, CPU, 16, torch.Generator()))[1].shape == (96, 3)
    assert gathered(cut.batches(cut.val, CPU, 16))[1].dtype == torch.long
    for batch_size, shard in ((15, (0, 1)), (16, (1, 3))):
        with pytest.raises(ValueError, match="each rank needs an even number"):
            cut.batches(cut.train, CPU, batch_size, torch.Generator(), shard)


def test_crops_cover_the_asked_share_and_flips_are_fair(tmp_path: Path, photos: Path) -> None:
    x, y = np.meshgrid(np.arange(250), np.arange(250))
    Image.fromarray(np.stack([x, y, 0 * x], 2).astype(np.uint8)).save(tmp_path / "ramp.png")
    data = streamed(photos, tmp_path, image_size=32, scale=(0.2, 0.6), color_jitter=0.0, erasing=0.0)
    split = Files([tmp_path / "ramp.png"] * 600, torch.zeros(600, dtype=torch.long))
    images = gathered(data.batches(split, CPU, 100, torch.Generator().manual_seed(0)))[0]
    images = 255 * (images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1))
    # at the middle of the crop one pixel is as many of the picture's as the crop is wide, divided by 32
    width = (images[:, 0, 16, 24] - images[:, 0, 16, 8]) * 2
    height = (images[:, 1, 24, 16] - images[:, 1, 8, 16]) * 2
    share, aspect = width.abs() * height / 250**2, width.abs() / height
    assert 0.18 < share.min() < 0.22
    assert 0.58 < share.max() < 0.62
    assert share.mean() == pytest.approx(0.4, abs=0.02)
    assert 0.70 < aspect.min() < 0.80
    assert 1.25 < aspect.max() < 1.40
    assert (width < 0).double().mean() == pytest.approx(0.5, abs=5 * 0.5 / 600**0.5)


def test_erased_pixels_are_standard_normal_noise() -> None:
    torch.manual_seed(0)
    erase = Erasing(0.25, (1 / 50, 1 / 3), (0.3, 1 / 0.3), "random")
    blank = torch.zeros(3, 32, 32, dtype=torch.uint8)
    images = torch.stack([erase(blank) for _ in range(2000)])
    assert images.dtype == torch.uint8
    touched = images.flatten(1).bool().any(1)
    assert touched.double().mean() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 2000) ** 0.5)
    noise = [normalised(image)[:, image.bool().any(0)].flatten() for image in images[touched]]
    assert torch.cat(noise).mean() == pytest.approx(0.0, abs=0.05)
    assert torch.cat(noise).std() == pytest.approx(1.0, abs=0.05)
    areas = torch.tensor([len(pixels) / 3 / 32**2 for pixels in noise])
    assert areas.min() == pytest.approx(1 / 50, abs=0.01)
    assert areas.max() == pytest.approx(1 / 3, abs=0.03)


def test_a_large_folder_is_verified_once_and_known_by_its_content(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(photos, tmp_path)
    first = streamed(photos, tmp_path)
    assert streamed(root, tmp_path).fingerprint == first.fingerprint
    monkeypatch.setattr("rootfree.data.large_image_folder.read_image", None)
    assert streamed(root, tmp_path, image_size=10, val_share=0.2).fingerprint == first.fingerprint
    monkeypatch.undo()
    Image.new("RGB", (16, 16)).save(root / "test" / "cedar" / "001.png")
    assert streamed(root, tmp_path).fingerprint != first.fingerprint
    truncate(root / "train" / "cedar" / "004.jpg")
    for _ in range(2):  # a failure is not remembered as a success
        with pytest.raises(ValueError, match=r"004.jpg is not a readable image"):
            streamed(root, tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"download": True}, "dataset.url does not say from where"),
        ({"scale": (0.9, 0.1)}, "dataset.scale = .* the least comes first"),
        ({"train_size": 109}, "train_size = 109 is not allowed: 108"),
        ({"root": "nowhere", "url": "https://example.org/a.tgz"}, "add dataset.download=true to fetch"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    settings: dict[str, Any], words: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        streamed(tmp_path / settings.pop("root") if "root" in settings else photos, tmp_path, **settings)


def test_images_too_large_for_memory_are_refused_with_the_remedy(photos: Path) -> None:
    with pytest.raises(ValueError, match="dataset=large_image_folder"):
        image_folder(str(photos), "photos", image_size=65)


def test_a_class_list_chooses_classes(photos: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "classes.txt"
    chosen.write_text("cedar\namber\n")
    data = streamed(photos, tmp_path, class_list=str(chosen))
    assert (data.classes, len(data.test), data.test.targets.tolist()) == (("amber", "cedar"), 24, [0] * 12 + [1] * 12)
    chosen.write_text("cedar\namber\ndogwood\n")
    with pytest.raises(ValueError, match="lacks 1 of 3 listed classes, such as dogwood"):
        streamed(photos, tmp_path, class_list=str(chosen))
    with pytest.raises(ValueError, match="lacks 100 of 100 listed classes"):
        streamed(photos, tmp_path, class_list="imagenet100.txt")


def test_tiny_imagenet_is_the_same_as_distributed_and_in_class_folders(photos: Path, tmp_path: Path) -> None:
    official, sorted_ = tmp_path / "official", tmp_path / "sorted"
    shutil.copytree(photos / "train", sorted_ / "train")
    (official / "test" / "images").mkdir(parents=True)  # without labels
    shutil.copytree(official / "test", sorted_ / "test")
    lines = []
    for name in ("amber", "birch", "cedar"):
        shutil.copytree(photos / "train" / name, official / "train" / name / "images")
        (official / "train" / name / f"{name}_boxes.txt").write_text("000.jpg\t0\t0\t9\t9\n")
        for split, target in ((sorted_, sorted_ / "val" / name), (official, official / "val" / "images")):
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted((photos / "test" / name).iterdir()):
                shutil.copy(file, target / f"{name}_{file.name}")
                lines += [f"{name}_{file.name}\t{name}\t0\t0\t9\t9\n"] if split is official else []
    (official / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    one, other = (tiny_imagenet(str(root), cache=str(tmp_path / "cache")) for root in (official, sorted_))
    assert one.train.inputs.shape == (108, 3, 64, 64)
    assert one.fingerprint == other.fingerprint
    with pytest.raises(FileNotFoundError, match=r"dataset.download=true to fetch http.*tiny-imagenet-200.zip"):
        tiny_imagenet(str(tmp_path / "nowhere"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server of `tmp_path` on this machine; its address."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def test_a_download_is_checked_and_leaves_nothing_half_made(photos: Path, tmp_path: Path, server: str) -> None:
    archive, root = tmp_path / "photos.tgz", tmp_path / "data" / "mine"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(photos, "photos2")
    with pytest.raises(FileNotFoundError, match=r"photos.tgz cannot be fetched: .*corrupted"):
        download_folder(root, f"{server}/photos.tgz", "0" * 32, download=True)
    with pytest.raises(FileNotFoundError, match=r"other.tgz cannot be fetched: is the network there"):
        download_folder(root, f"{server}/other.tgz", "0" * 32, download=True)
    assert not root.exists()
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    data = streamed(root, tmp_path, url=f"{server}/photos.tgz", md5=md5, download=True)
    assert len(data.test) == 36
    assert [path.name for path in root.parent.iterdir() if path.is_dir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "classes", "size"),
    [("cifar10-jpeg", 10, 32), ("tinyimagenet100-32px", 100, 32), ("imagenette-112px", 10, 112)],
)
def test_real_images_train_and_evaluate(name: str, classes: int, size: int, tmp_path: Path) -> None:
    archive = ROOT.parent / "shared" / "data" / f"{name}.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not beside the repository")
    taken: Counter[str] = Counter()
    with tarfile.open(archive, "r|xz") as tar:
        for member in tar:
            where = str(Path(member.name).parent)
            if member.isfile() and taken[where] < 4:
                taken[where] += 1
                tar.extract(member, tmp_path, filter="data")
    make = image_folder if size <= 64 else large_image_folder
    data: Any = make(str(tmp_path / name), name, image_size=size, batch_size=16, val_share=0.25, cache=str(tmp_path))
    assert (len(data.classes), len(data.train), len(data.test)) == (classes, 3 * classes, 4 * classes)
    training = data.batches(data.train, CPU, 16, torch.Generator().manual_seed(0))
    for batches in (training, data.batches(data.test, CPU, 16)):
        images, labels = gathered(batches)
        assert images.shape == (len(labels), 3, size, size)
        assert 0.5 < images.std() < 2
        assert len(labels.unique()) == classes
    assert not torch.equal(gathered(training)[0], gathered(training)[0])


def test_label_noise_permutes_a_share_of_the_training_labels_and_nothing_else() -> None:
    """One draw for all runs, under a name and fingerprint of its own; without noise all is as it was."""
    cache = str(Path(__file__).parents[1] / "data" / "cache")  # which takes ten seconds to make
    plain, noisy, again = (digits.cluttered_digits(cache=cache, label_noise=share) for share in (0.0, 0.2, 0.2))
    assert (plain.name, plain.fingerprint) == ("cluttered_digits", "4c264ca5641cc815"), "that of the published runs"
    assert (noisy.name, noisy.fingerprint) == ("cluttered_digits-noise20", again.fingerprint)
    assert len({plain.fingerprint, noisy.fingerprint, plain.with_label_noise(0.3).fingerprint}) == 3
    assert torch.equal(noisy.train.targets, again.train.targets)
    assert torch.equal(noisy.train.inputs, plain.train.inputs)
    assert torch.equal(noisy.val.targets, plain.val.targets)
    assert torch.equal(noisy.test.targets, plain.test.targets)
    changed = (noisy.train.targets != plain.train.targets).float().mean().item()
    assert abs(changed - 0.2 * 0.9) < 0.02  # one in ten keeps its class
    assert noisy.class_counts == plain.class_counts
