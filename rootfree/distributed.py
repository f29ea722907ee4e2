"""Several processes that train one run together, as `torchrun` starts them; one process needs none of this."""

import atexit
import multiprocessing
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(minutes=60)  # one rank decodes a data set while the others wait for its cache


def join(device: str) -> None:
    """Join the processes that `torchrun` started, if it did, and take the GPU of this process.

    Args:
        device: the setting: "auto", "cpu", "cuda".
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu and (worker := re.fullmatch(r"LokyProcess-(\d+)", multiprocessing.current_process().name)):
        torch.cuda.set_device((int(worker[1]) - 1) % torch.cuda.device_count())  # joblib's workers take one in turn
    if "LOCAL_RANK" not in os.environ or dist.is_initialized():
        return
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)


def rank() -> int:
    """Which of the processes this is."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is the process that writes the record, and speaks."""
    return rank() == 0


def world_size() -> int:
    """How many processes train this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let the other processes do what is in this context when rank 0 has done it."""
    if dist.is_initialized() and rank():
        dist.barrier()
    yield
    if dist.is_initialized() and not rank():
        dist.barrier()


def broadcast(value: Any) -> Any:
    """Return what rank 0 says."""
    said = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(said)
    return said[0]


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum a tensor over all processes."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def broadcast_buffers(model: nn.Module) -> None:
    """Give all processes the batch statistics of rank 0, so that each evaluates the same model."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def has_batch_statistics(model: nn.Module) -> bool:
    """Whether a model normalises by the mean and variance of a batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def depends_on_world_size(model: nn.Module) -> bool:
    """Whether a step changes when its batch is divided: by batch statistics, or random numbers drawn on each rank."""
    return has_batch_statistics(model) or any(
        (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
        or (getattr(module, "drop_prob", None) or 0) > 0
        for module in model.modules()
    )
