"""What a run is made of, tried out before anything is recorded, so that what refuses a setting does so in words."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rootfree.settings import SettingsError, build

if TYPE_CHECKING:
    from torch import nn


def try_out(settings: DictConfig, model: "nn.Module", classes: int) -> None:
    """Build loss, schedule and optimizer, and make a step of the latter on parameters of this model.

    The optimizer is given all parameters, and random gradients for the smallest of each number of axes alone, since
    the step of a matrix method on a large network can take a minute; so does compiling, which is left out.

    Args:
        settings: of the run.
        model: one of its kind, which the step changes.
        classes: that the data have.

    Raises:
        SettingsError: with what the part that failed said, and the settings of all.
    """
    import torch

    from rootfree.trainer import make_optimizer

    block: DictConfig = settings.optimizer
    eager: Any = OmegaConf.merge(block, {"compile": False}) if block.get("compile") else block
    gradients = torch.Generator().manual_seed(0)
    smallest = {param.ndim: param for param in sorted(model.parameters(), key=lambda param: -param.numel())}
    try:
        build(settings.loss)(torch.zeros(2, classes), torch.tensor([0, 1]))
        build(settings.schedule)(0.0)
        optimizer = make_optimizer(build(eager), model, settings.trainer.get("decay_norms_and_biases", True))
        getattr(optimizer, "train", lambda: None)()  # schedule-free methods ask for it
        for param in smallest.values():
            param.grad = torch.randn(param.shape, generator=gradients).to(param)
        optimizer.step()
    except Exception as error:  # code of others may fail in any way
        what = str(error) or type(error).__name__
        given = {key: value for key, value in block.items() if not str(key).startswith("_")}
        raise SettingsError(
            f"{what} (optimizer: {given}, loss: {settings.loss}, schedule: {settings.schedule})"
        ) from error
