"""Decode, augment and mix images, each with a seed of its own: what a worker of a loader does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from rootfree.data.image_folder import read_image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as the published recipes use; of 1


class Erasing(v2.RandomErasing):
    """Random erasing (Zhong et al. 2020) of uint8 images, with noise that is standard normal once it is normalised."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:  # noqa: D102
        params = super().make_params(flat_inputs)
        if params["v"] is not None:  # null: no rectangle was found
            mean, std = (255 * torch.tensor(s).view(3, 1, 1) for s in (MEAN, STD))
            params["v"] = (params["v"] * std + mean).round().clamp(0, 255).to(torch.uint8)
        return params


class Decoder:
    """What a worker does: make batches (B, 3, side, side) uint8 of files.

    Args:
        paths: the files.
        transform: makes a tensor (3, side, side) of a PIL image.
        side: pixels.
    """

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], Tensor], side: int) -> None:
        self.paths, self.transform, self.side = paths, transform, side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, batch: list[tuple[int, int]]) -> Tensor:
        images = torch.empty(len(batch), 3, self.side, self.side, dtype=torch.uint8)
        with torch.random.fork_rng(devices=[]):
            for image, (index, seed) in zip(images, batch, strict=True):
                torch.default_generator.manual_seed(seed)
                image.copy_(self.transform(read_image(self.paths[index])))
        return images


def seeded(mix: Callable[..., tuple[Tensor, Tensor]], seed: int, *batch: Tensor) -> tuple[Tensor, Tensor]:
    """Mix a batch with numbers that `seed` fixes: timm draws from numpy's global generator, which stays as it was."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        return mix(*batch)
    finally:
        np.random.set_state(state)  # noqa: NPY002
