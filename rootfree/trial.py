"""What a run is made of, tried out before anything is recorded, so that what refuses a setting does so in words."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rootfree.settings import SettingsError, build

if TYPE_CHECKING:
    from torch import nn


def build_model(block: DictConfig, told: Mapping[str, Any], whose: str) -> "nn.Module":
    """Call a model's function with what the data tell it.

    Raises:
        ValueError: it does not take that.
    """
    make = build(block)
    try:
        inspect.signature(make).bind(**told)
    except TypeError:
        what = ", ".join(told)
        raise ValueError(f"{block._target_} does not take what {whose} tells a model: {what}") from None
    return make(**told)


def try_out(settings: DictConfig, model: "nn.Module", classes: int) -> None:
    """Build loss, schedule and optimizer, and make a step of the latter on parameters of this model.

    The optimizer is given all parameters, and random gradients for the smallest of each number of axes alone, since
    the step of a matrix method on a large network can take a minute; so does compiling, which is left out.

    Args:
        settings: of the run.
        model: one of its kind, which the step changes.
        classes: that the data have.

    Raises:
        SettingsError: with what the part that failed said, and its settings.
    """
    import torch

    from rootfree.trainer import make_optimizer

    def step() -> None:
        block = settings.optimizer
        eager: Any = OmegaConf.merge(block, {"compile": False}) if block.get("compile") else block
        optimizer = make_optimizer(build(eager), model, settings.trainer.get("decay_norms_and_biases", True))
        getattr(optimizer, "train", lambda: None)()  # schedule-free methods ask for it
        draws = torch.Generator().manual_seed(0)
        largest_first = sorted(model.parameters(), key=lambda param: -param.numel())
        for param in {param.ndim: param for param in largest_first}.values():
            param.grad = torch.randn(param.shape, generator=draws).to(param)
        optimizer.step()

    parts: dict[str, Callable[[], Any]] = {
        "loss": lambda: build(settings.loss)(torch.zeros(2, classes), torch.tensor([0, 1])),
        "schedule": lambda: build(settings.schedule)(0.0),
        "optimizer": step,
    }
    for name, part in parts.items():
        try:
            part()
        except Exception as error:  # code of others may fail in any way
            given = {key: value for key, value in settings[name].items() if not str(key).startswith("_")}
            raise SettingsError(f"{str(error) or type(error).__name__} ({name}: {given})") from error
