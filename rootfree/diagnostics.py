"""What an optimizer does to the weights, and what its state says: computed from the last steps of an epoch."""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

WINDOW = 20  # steps whose gradients make up the heavy ball that an update is compared with
MOMENTUM = 0.9  # of that heavy ball; gradients before the window would weigh less than 0.9^20 = 0.12 in it
SAMPLE = 2**20  # at most so many coordinates, evenly spaced, enter the quantiles
QUANTILES = {"effective_lr_q05": 0.05, "effective_lr_q50": 0.5, "effective_lr_q95": 0.95}


class Diagnostics:
    """Watches the last steps of an epoch through an optimizer's parameters; the device waits for nothing but `read`.

    It never stops a run: what cannot be said of an optimizer is left out, with one warning.

    Args:
        optimizer: any `torch.optim.Optimizer`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._params: list[Tensor] = []  # those that have a gradient
        self._ball: list[Tensor] = []
        self._before: list[Tensor] = []
        self._grad_norm = torch.zeros(())
        self._warned = False

    @torch.no_grad()
    def watch(self, left: int) -> None:
        """Look at the gradients before a step; `left` is the number of steps to the epoch's end, 1 at the last."""
        if left <= WINDOW:
            self._try(self._watch, left)

    def _watch(self, left: int) -> None:
        if not self._ball:
            self._params = [param for param in self._all() if param.grad is not None]
            self._ball = [torch.zeros_like(param) for param in self._params]
        gradients = [torch.zeros_like(param) if param.grad is None else param.grad for param in self._params]
        torch._foreach_mul_(self._ball, MOMENTUM)
        torch._foreach_add_(self._ball, gradients)
        if left == 1:
            self._before = [param.clone() for param in self._params]
            self._grad_norm = _norm(gradients)

    @torch.no_grad()
    def read(self) -> dict[str, float]:
        """Describe the last step, after it was made.

        Returns:
            `grad_norm` and `update_norm` (2-norms of the last step's gradient and change of the weights); `cosine_sgd`
            (between that change and the one of momentum SGD, minus a heavy ball of the last gradients); where the
            optimizer preconditions, `share_frozen` (of the coordinates of the second moments, or else of the entries of
            the Kronecker factors, that still have their initial value); and, where it keeps a diagonal second moment,
            `share_above_damping` (of coordinates whose second moment exceeds damping, or eps^2) and quantiles of the
            effective learning rate, lr over the denominator.
        """
        found = self._try(self._step)
        found |= self._try(_describe, self.optimizer) or self._try(_describe_factors, self.optimizer)
        self._params, self._ball, self._before = [], [], []
        numbers = torch.stack([value.float() for value in found.values()]).tolist() if found else []
        return dict(zip(found, numbers, strict=True))

    def _step(self) -> dict[str, Tensor]:
        update = torch._foreach_sub(self._params, self._before)
        product = torch.stack([(u * b).sum() for u, b in zip(update, self._ball, strict=True)]).sum()
        norm = _norm(update)
        return {"grad_norm": self._grad_norm, "update_norm": norm, "cosine_sgd": -product / (norm * _norm(self._ball))}

    def _try(self, look: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function says, or nothing and warn if it fails: an optimizer may keep anything in its state."""
        try:
            return look(*arguments)
        except Exception as error:
            if not self._warned:
                name, reason = type(self.optimizer).__name__, f"{type(error).__name__}: {error}"
                warnings.warn(f"{name} cannot be described ({reason}): diagnostics are left out", stacklevel=3)
            self._warned = True
            return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen of the epoch so far, for `load_state_dict`."""
        places = {param: i for i, param in enumerate(self._all())}
        return {
            "params": [places[param] for param in self._params],
            "ball": self._ball,
            "before": self._before,
            "grad_norm": self._grad_norm,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go back to what `state_dict` returned."""
        params = list(self._all())
        self._params = [params[i] for i in saved["params"]]
        device = params[0].device
        self._ball, self._before = ([tensor.to(device) for tensor in saved[key]] for key in ("ball", "before"))
        self._grad_norm = saved["grad_norm"].to(device)

    def _all(self) -> Iterator[Tensor]:
        return (param for group in self.optimizer.param_groups for param in group["params"])


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))


def _describe(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The diagonal second moments, summed up; nothing for optimizers that keep none."""
    above, frozen, rates, count = [], [], [], 0
    total = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    for moment, start, threshold, rate in _second_moments(optimizer):
        above.append((moment > threshold).sum())
        frozen.append((moment == start).sum())
        rates.append(rate.flatten()[:: -(-total // SAMPLE)].float())
        count += moment.numel()
    if not count:
        return {}
    quantiles = torch.quantile(torch.cat(rates), torch.tensor([*QUANTILES.values()], device=rates[0].device))
    shares = {"share_above_damping": torch.stack(above), "share_frozen": torch.stack(frozen)}
    return {name: number.sum() / count for name, number in shares.items()} | dict(
        zip(QUANTILES, quantiles.unbind(), strict=True)
    )


def _describe_factors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """How much of the Kronecker factors never moved; nothing for optimizers that keep none."""
    frozen, count = [], 0
    for state in (optimizer.state.get(param, {}) for group in optimizer.param_groups for param in group["params"]):
        for axis in [key.removeprefix("factor_") for key in state if re.fullmatch(r"factor(_\d+)+", key)]:
            factor = state[f"factor_{axis}"]
            # Shampoo sums its factors up from nothing; those without the root start at the identity
            start = torch.zeros_like(factor) if f"root_{axis}" in state else torch.eye(factor.shape[-1]).to(factor)
            frozen.append((factor == start).sum())
            count += factor.numel()
    return {"share_frozen": torch.stack(frozen).sum() / count} if count else {}


def _second_moments(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, float, float, Tensor]]:
    """Yield (second moment, its initial value, what makes it count, effective learning rate) per parameter.

    Our own optimizers store B s, torch's Adam family and RMSprop a moving average of g^2 under the root.
    """
    for group in optimizer.param_groups:
        for param in group["params"]:
            state = optimizer.state.get(param, {})
            if "second_moment" in state and "damping" in group:  # grafted Shampoo's is for the length of steps alone
                moment, damping = state["second_moment"], group["damping"]
                rate = group["lr"] / (moment.float() + damping) ** group.get("power", 1)
                yield moment, group["init"], damping, rate
            elif "exp_avg_sq" in state and "eps" in group and "betas" in group:
                moment, step = state["exp_avg_sq"], state.get("step", group.get("step"))  # some count in the group
                corrected = moment.float() / (1 - group["betas"][1] ** torch.as_tensor(step).to(moment.device))
                yield moment, 0.0, group["eps"] ** 2, group["lr"] / (corrected.sqrt() + group["eps"])
            elif "square_avg" in state and "eps" in group:
                moment = state["square_avg"]
                yield moment, 0.0, group["eps"] ** 2, group["lr"] / (moment.float().sqrt() + group["eps"])
