"""All that a run needs to go on bit for bit from the step that it made last."""

import random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rootfree import distributed
from rootfree.diagnostics import Diagnostics


class State:
    """The model, what trains it, and how far it came.

    Args:
        model: the model.
        optimizer: of its parameters.
        scaler: of the loss, which does nothing unless the forward pass is in fp16.
        generator: of order and augmentation.
        ema_decay: of the moving average of the weights, if any.

    Attributes:
        epoch: epochs that ended.
        index: steps of the next one that were made.
        loss_sum: over the examples of those steps.
        seconds, epoch_seconds: time spent training in whole epochs, and in this one.
        skipped: steps that overflowed.
        metrics: of the epoch that ended last.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        generator: torch.Generator,
        ema_decay: float | None,
    ) -> None:
        self.model, self.optimizer, self.scaler, self.generator = model, optimizer, scaler, generator
        average = None if ema_decay is None else get_ema_multi_avg_fn(ema_decay)
        self.average = average and AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.diagnostics = Diagnostics(optimizer)
        self.epoch = self.index = self.skipped = 0
        self.seconds = self.epoch_seconds = 0.0
        self.loss_sum = torch.zeros(())
        self.metrics: dict[str, Any] = {}
        self._epoch_start = generator.get_state()

    def begin_epoch(self, steps: int) -> None:
        """Prepare for training, and remember where the epoch's random numbers begin: half of it is made again.

        Args:
            steps: of the epoch. Where all were made, the weights are those of its evaluation, and stay so.
        """
        self.model.train()
        if self.index < steps:
            self._set_optimizer_mode("train")
        self._epoch_start = self.generator.get_state()

    def begin_evaluation(self) -> None:
        """Prepare for evaluation: a schedule-free optimizer then puts averaged weights into the model."""
        self._set_optimizer_mode("eval")

    def _set_optimizer_mode(self, mode: str) -> None:
        if hasattr(self.optimizer, mode):
            getattr(self.optimizer, mode)()

    def end_step(self, index: int, epoch_seconds: float) -> None:
        """Count a step, and one that overflowed, and let the average follow the weights."""
        self.index, self.epoch_seconds = index + 1, epoch_seconds
        scale = self.scaler.get_scale()
        self.scaler.update()
        self.skipped += self.scaler.get_scale() < scale
        if self.average is not None:
            self.average.update_parameters(self.model)

    def end_epoch(self, metrics: dict[str, Any]) -> None:
        """Count an epoch."""
        self.epoch, self.index, self.loss_sum, self.metrics = self.epoch + 1, 0, torch.zeros(()), metrics
        self.seconds, self.epoch_seconds = self.seconds + self.epoch_seconds, 0.0

    def eval_model(self, model: nn.Module) -> nn.Module:
        """Return what is evaluated: the average, or the model (compiled or not) where there is none."""
        return model if self.average is None else self.average.module

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors for `load_state_dict`."""
        numpy_rng: Any = np.random.get_state()  # noqa: NPY002  # what timm and torchvision may draw from
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average and self.average.state_dict(),
            "scaler": self.scaler.state_dict(),
            "diagnostics": self.diagnostics.state_dict(),
            "generator": self._epoch_start if self.index else self.generator.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
            "numpy_rng": (numpy_rng[0], numpy_rng[1].tolist(), *numpy_rng[2:]),
            "python_rng": random.getstate(),
            "step": self.metrics.get("step", 0) + self.index,
            **{name: getattr(self, name) for name in self.COUNTED},
        }

    COUNTED = ("epoch", "index", "loss_sum", "seconds", "epoch_seconds", "skipped", "metrics")

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go back to what `state_dict` returned; processes beyond the first then draw random numbers of their own."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.scaler.load_state_dict(saved["scaler"])
        self.diagnostics.load_state_dict(saved["diagnostics"])
        self.generator.set_state(saved["generator"])
        torch.set_rng_state(saved["rng"])
        if saved["cuda_rng"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved["cuda_rng"])
        np.random.set_state(saved["numpy_rng"])  # noqa: NPY002
        random.setstate(saved["python_rng"])
        if distributed.rank():
            torch.manual_seed(distributed.rank() + torch.initial_seed() + saved["epoch"])
        for name in self.COUNTED:
            setattr(self, name, saved[name])
        self.loss_sum = self.loss_sum.to(next(self.model.parameters()).device)
