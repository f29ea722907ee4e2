"""The one training loop, CNN and ViT alike."""

import hashlib
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor, nn

from rootfree.data.splits import Batches, Splits
from rootfree.progress import EpochProgress
from rootfree.record import Record

Loss = Callable[[Tensor, Tensor], Tensor]


def fit(
    model: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[float], float],
    data: Splits,
    record: Record,
    seed: int,
    device: torch.device,
    epochs: Annotated[int, Gt(0)],
    eval_batch_size: Annotated[int, Gt(0)] = 500,
    clean_size: Annotated[int, Gt(0)] = 2000,
    evaluate_test: bool = True,
) -> dict[str, Any]:
    """Train from where the record's checkpoint stands, or from the start, and return the summary.

    Args:
        model: maps images (B, 3, H, W) to logits (B, classes); already on `device`.
        loss: maps (logits, labels) to a mean.
        optimizer: holds the model's parameters and the learning rates that `schedule` scales.
        schedule: maps progress in [0, 1) to a factor.
        data: the splits, with batch size and augmentation.
        record: where metrics and checkpoints go.
        seed: of shuffling and augmentation.
        device: where batches are made.
        epochs: passes over the training split.
        eval_batch_size: images per batch without gradients.
        clean_size: training images, a fixed draw, seen without augmentation to measure the generalisation gap.
        evaluate_test: look at the test split after the last epoch; a search never does.

    Returns:
        Status ("finished", or "diverged" when a loss was not finite) and the final metrics.
    """
    generator = torch.Generator().manual_seed(seed)
    train = data.batches(data.train, device, data.batch_size, generator)
    fixed = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:clean_size]
    watched = {
        name: data.batches(split, device, eval_batch_size)
        for name, split in {"train": data.train[fixed], "val": data.val, "test": data.test}.items()
    }
    learning_rates = [group["lr"] for group in optimizer.param_groups]
    steps, step, first_epoch, seconds = epochs * len(train), 0, 0, 0.0
    metrics: dict[str, Any] = {}

    if checkpoint := record.load_checkpoint():
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        generator.set_state(checkpoint["generator"])
        torch.set_rng_state(checkpoint["rng"])
        first_epoch, seconds, metrics = checkpoint["epoch"], checkpoint["seconds"], checkpoint["metrics"]
        step = first_epoch * len(train)

    with EpochProgress(record.title, epochs, len(train), first_epoch) as progress:
        for epoch in range(first_epoch, epochs):
            # train: no number is read from the device before the epoch's end
            model.train()
            started = time.perf_counter()
            loss_sum = torch.zeros((), device=device)
            for images, labels in train:
                factor = schedule(step / steps)
                for group, learning_rate in zip(optimizer.param_groups, learning_rates, strict=True):
                    group["lr"] = learning_rate * factor
                optimizer.zero_grad()
                batch_loss = loss(model(images), labels)
                batch_loss.backward()
                optimizer.step()
                loss_sum += batch_loss.detach() * len(labels)
                step += 1
                progress.advance()
            running_loss = loss_sum.item() / len(data.train)
            epoch_seconds = time.perf_counter() - started
            seconds += epoch_seconds

            # watch: clean training images and val, in eval mode
            metrics = {"epoch": epoch + 1, "step": step, "lr": learning_rates[0] * factor, "loss": running_loss}
            for name in ("train", "val"):
                metrics[f"{name}_acc"], metrics[f"{name}_loss"] = evaluate(model, loss, watched[name])
            metrics["gap_acc"] = metrics["train_acc"] - metrics["val_acc"]
            metrics["images_per_second"] = len(data.train) / epoch_seconds
            metrics["seconds"] = seconds
            record.log(metrics)
            progress.end_epoch(metrics)
            if not all(math.isfinite(metrics[key]) for key in ("loss", "train_loss", "val_loss")):
                return _summary("diverged", metrics, model, optimizer, data)

            record.save_checkpoint({
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "generator": generator.get_state(),
                "rng": torch.get_rng_state(),
                "epoch": epoch + 1,
                "seconds": seconds,
                "metrics": metrics,
            })  # fmt: skip

    if evaluate_test:
        metrics["test_acc"], metrics["test_loss"] = evaluate(model, loss, watched["test"])
    return _summary("finished", metrics, model, optimizer, data)


@torch.no_grad()
def evaluate(model: nn.Module, loss: Loss, batches: Batches) -> tuple[float, float]:
    """Return accuracy (a fraction) and mean loss over a split, in eval mode; batch statistics stay as they are."""
    model.eval()
    correct = torch.zeros((), dtype=torch.long, device=batches.device)
    loss_sum = torch.zeros((), device=batches.device)
    for images, labels in batches:
        logits = model(images)
        correct += (logits.argmax(1) == labels).sum()
        loss_sum += loss(logits, labels) * len(labels)
    return correct.item() / batches.size, loss_sum.item() / batches.size


def _summary(
    status: str, metrics: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, data: Splits
) -> dict[str, Any]:
    """The run's result: final metrics, and the gap between clean training images and test (null without test)."""
    state = [value for state in optimizer.state.values() for value in state.values()]
    tensors = [item for value in state for item in (value if isinstance(value, list) else [value])]
    final = {"test_acc": None, "test_loss": None, **metrics}
    tested = final["test_acc"] is not None
    return {
        "status": status,
        "epochs": final["epoch"],
        "steps": final["step"],
        "seconds": final["seconds"],
        "images_per_second": final["epoch"] * len(data.train) / final["seconds"],
        **{f"{name}_acc": final[f"{name}_acc"] for name in ("train", "val", "test")},
        **{f"{name}_loss": final[f"{name}_loss"] for name in ("train", "val", "test")},
        "gap_acc": final["train_acc"] - final["test_acc"] if tested else None,
        "gap_loss": final["train_loss"] - final["test_loss"] if tested else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights": _hash(model),
        "state_bytes": sum(t.nbytes for t in tensors if isinstance(t, Tensor) and t.dim() > 0),
    }


def _hash(model: nn.Module) -> str:
    """Hash of all parameters and buffers: two runs that end alike bit for bit share it."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.contiguous().flatten().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()[:16]


def pick_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the GPU if there is one. A device that is not there is an error."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device = {name!r} does not work here: {str(error).splitlines()[0]}") from error
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """Name the hardware for the record: what it is and how many threads it may use."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {_processor()}, {torch.get_num_threads()} thread(s)"


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
