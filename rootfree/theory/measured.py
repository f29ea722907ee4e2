"""What a check measured, and the small functions that every check needs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class Measured:
    """One line of the table; `n` counts the independent repetitions behind `value`, `error` is its standard error."""

    claim: str
    check: str
    setting: str
    quantity: str
    value: float
    error: float | None = None
    expected: str = ""
    n: int = 1

    @property
    def agrees(self) -> bool | None:
        """Whether the value is what the claim predicts, by the rule in `rootfree.theory`; None without one."""
        if not self.expected:
            return None
        first, *rest = self.expected.split()
        slack = 3 * (self.error or 0.0)
        if first == ">":
            return self.value > float(rest[0]) + slack
        if first == "<":
            return self.value < float(rest[0]) - slack
        return abs(self.value - float(first)) <= float(rest[1]) + slack  # x ± t


def label(power: float) -> str:
    """How a row names an exponent."""
    return f"p={power:g}"


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relative(error: Tensor, scale: Tensor) -> float:
    """Return ||error|| / ||scale||, or 0 where that is a rounding error."""
    return settle((error.norm() / scale.norm()).item())


def settle(value: float) -> float:
    """Return a value that is exact up to rounding errors without them."""
    return round(value, 9) + 0.0  # no -0


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return the slope of the least-squares line through the points, and its standard error."""
    X, Y = torch.tensor(x).double(), torch.tensor(y).double()
    X, Y = X - X.mean(), Y - Y.mean()
    slope = (X @ Y / (X @ X)).item()
    return slope, ((Y - slope * X).norm() / (X.norm() * math.sqrt(max(len(x) - 2, 1)))).item()


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Return the mean of independent values and its standard error."""
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


def matrix_power(S: Tensor, power: float) -> Tensor:
    """Return S^power of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values**power) @ vectors.mT


def classifier(inputs: int, hidden: int, classes: int) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """Return (flat parameters, examples) -> logits of a network with one tanh layer, and a starting point."""
    linear = partial(nn.Linear, device="meta", dtype=torch.float64)  # shapes only
    net = nn.Sequential(linear(inputs, hidden), nn.Tanh(), linear(hidden, classes))
    shapes = {name: param.shape for name, param in net.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]

    def logits(flat: Tensor, examples: Tensor) -> Tensor:
        parts = zip(shapes.items(), flat.split(sizes), strict=True)
        return functional_call(net, {name: part.view(shape) for (name, shape), part in parts}, (examples,))

    return logits, 0.5 * normal(sum(sizes), seed=3)
