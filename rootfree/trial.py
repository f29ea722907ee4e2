"""What a run is made of, tried out before anything is recorded, so that what refuses a setting does so in words."""

import inspect
import io
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


def check_batches(data: Any, new_model: Callable[[], "nn.Module"], processes: int, chunks: int) -> None:
    """Refuse batches of which a process has nothing to do, or batch norm a single example.

    Args:
        data: the splits, with their batch size.
        new_model: makes the model.
        processes: that divide each batch.
        chunks: that each of them divides its share into, `trainer.accumulate`.

    Raises:
        ValueError: naming the batch size and what is left.
    """
    from rootfree.distributed import has_batch_statistics

    examples, batch = len(data.train), data.batch_size
    rest = 0 if getattr(data, "drop_last", False) else examples % batch
    left = f"dataset.batch_size = {batch} leaves a last batch of {rest}"
    if 0 < rest < processes:
        raise ValueError(f"{left}, for {processes} processes")
    sizes = [size for size in (batch if examples >= batch else 0, rest) if size]
    shares = [share for size in sizes for share in (size // processes, -(-size // processes)) if share]
    smallest = min(((share - 1) % -(-share // chunks) + 1 for share in shares), default=0)  # as torch.chunk divides
    if smallest == 1 and has_batch_statistics(new_model()):
        if rest != 1:
            among = f", divided among {processes} processes" if processes > 1 else ""
            by = f", with trainer.accumulate = {chunks}" if chunks > 1 else ""
            left = f"dataset.batch_size = {batch}{among}{by}: of {examples} examples one has a forward pass of its own"
        raise ValueError(f"{left}, of which a model with batch norm has no statistics")


def try_out(settings: DictConfig, model: "nn.Module", classes: int) -> None:
    """Build loss, schedule and optimizer, and make a step of the latter on parameters of this model.

    Its state is saved, and loaded into another one, so that no run ends with a checkpoint that cannot be read. The
    optimizer is given all parameters, and random gradients for the smallest of each number of axes alone, since
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

        def make() -> torch.optim.Optimizer:
            return make_optimizer(build(eager), model, settings.trainer.get("decay_norms_and_biases", True))

        optimizer = make()
        getattr(optimizer, "train", lambda: None)()  # schedule-free methods ask for it
        draws = torch.Generator().manual_seed(0)
        largest_first = sorted(model.parameters(), key=lambda param: -param.numel())
        for param in {param.ndim: param for param in largest_first}.values():
            param.grad = torch.randn(param.shape, generator=draws).to(param)
        optimizer.step()
        saved = io.BytesIO()
        try:
            torch.save(optimizer.state_dict(), saved)
            saved.seek(0)
            make().load_state_dict(torch.load(saved, weights_only=True))
        except Exception as error:
            raise ValueError(
                f"its state cannot be saved and loaded again: {str(error).partition(chr(10))[0]}"
            ) from error

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
