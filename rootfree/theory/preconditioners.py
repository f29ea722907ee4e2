"""C12: does it matter what is learned, S, its inverse, a factor or Kronecker factors?"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rootfree.optim import IFShampoo, RFShampoo
from rootfree.theory.measured import Measured, label, line, matrix_power, mean_and_error, normal

STEP_SIZES = tuple(10.0**-k for k in (2, 2.5, 3, 3.5, 4))
Step = Callable[[Tensor, Tensor, float], Tensor]  # (P = S^-1, U, h) -> the new P


def average(P: Tensor, U: Tensor, h: float) -> Tensor:
    """S <- (1 - h) S + h U."""
    return ((1 - h) * P.inverse() + h * U).inverse()


def natural_inverse(P: Tensor, U: Tensor, h: float) -> Tensor:
    """P <- P - h (P U P - P): the natural-gradient step of the Gaussian KL divergence in P = S^-1."""
    return P - h * (P @ U @ P - P)


def natural_factor(P: Tensor, U: Tensor, h: float) -> Tensor:
    """K <- K - h/2 K (K^T U K - I): the same in a factor, P = K K^T, here the Cholesky one (paper, Figure 3's form)."""
    K = torch.linalg.cholesky(P)
    K = K - h / 2 * K @ (K.mT @ U @ K - torch.eye(len(K)))
    return K @ K.mT


def natural_root(P: Tensor, U: Tensor, h: float) -> Tensor:
    """R <- R + h D with R D + D R = U - S: the same in R = S^(1/2)."""
    values, vectors = torch.linalg.eigh(P.inverse())
    roots = values.sqrt()
    D = vectors.mT @ (U - P.inverse()) @ vectors / (roots + roots.unsqueeze(1))
    R = vectors @ (roots.diag() + h * D) @ vectors.mT
    return (R @ R).inverse()


def average_root(P: Tensor, U: Tensor, h: float) -> Tensor:
    """R <- (1 - h) R + h U^(1/2) with R = S^(1/2): a plain moving average of the root."""
    R = (1 - h) * matrix_power(P, -0.5) + h * matrix_power(U, 0.5)
    return (R @ R).inverse()


def euclidean_inverse(P: Tensor, U: Tensor, h: float) -> Tensor:
    """P <- P - h (U - S): a plain gradient step of the KL divergence in S^-1, with no metric."""
    return P - h * (U - P.inverse())


STEPS: dict[str, Step] = {
    "natural step in S^-1": natural_inverse,
    "natural step in K": natural_factor,
    "natural step in S^(1/2)": natural_root,
    "moving average of S^(1/2)": average_root,
    "plain gradient step in S^-1": euclidean_inverse,
}


def preconditioner_invariance(dim: int = 5, problems: int = 8, steps: dict[str, Step] = STEPS) -> list[Measured]:
    """C12: one step of S in several coordinates, against the moving average of S itself: k of ||difference|| ~ h^k.

    The difference is that of the updates P^p g, P = S^-1, after one step of size h from the same random S towards
    U = B g g^T + damping I. Two steps that follow the same direction to first order differ by O(h^2), k = 2; others by
    O(h), k = 1. The claim, as we read it, is that the coordinates do not matter for p = 1 and do for p = 1/2. Since
    P -> P^p is smooth, k cannot depend on p (derived here): what decides is whether the step is natural.
    """
    rows = []
    for (name, step), power in itertools.product(steps.items(), (1.0, 0.5)):
        gaps = torch.zeros(problems, len(STEP_SIZES), dtype=torch.float64)
        for i, (j, h) in itertools.product(range(problems), enumerate(STEP_SIZES)):
            K = torch.eye(dim) + 0.3 * normal(dim, dim, seed=20 + i)
            g = normal(dim, seed=40 + i)
            P, U = K @ K.mT, torch.outer(g, g) + 0.1 * torch.eye(dim)
            difference = matrix_power(step(P, U, h), power) - matrix_power(average(P, U, h), power)
            gaps[i, j] = (difference @ g).norm()
        rows.append(slope_of(name, power, gaps))
    return rows


def slope_of(name: str, power: float, gaps: Tensor) -> Measured:
    """Measured of the slope of gaps (problems, step sizes) against the step size, its error that over problems."""
    slopes = torch.tensor([line([math.log(h) for h in STEP_SIZES], row)[0] for row in gaps.log().tolist()]).double()
    check = "preconditioner_invariance" if power == 1 else "preconditioner_invariance_rooted"
    expected = ("2 ± 0.1" if power == 1 else "< 1.5") if name.startswith("natural") else ""  # what the claim names
    return Measured("C12", check, f"{label(power)}, {name}", "slope", *mean_and_error(slopes), expected, len(slopes))


def kronecker_invariance(shape: tuple[int, ...] = (3, 4), problems: int = 8) -> list[Measured]:
    """C12 with Kronecker factors: `IFShampoo`, a natural step in K_n, against `RFShampoo`, a moving average of S_n.

    Both start from equal random factors, with no momentum and gradients small enough for IF-Shampoo's clip to rest. The
    exponent 1/2 takes the root of the factors that the two classes have learned, which themselves apply exponent 1.
    """

    def learned(cls: type, h: float, problem: int) -> tuple[Tensor, list[Tensor]]:
        param = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        hyper = {"precond_lr": h, "precond_momentum": 0.0} if cls is IFShampoo else {"beta2": 1 - h}
        optimizer = cls([param], lr=1.0, batch_size=4, damping=0.1, momentum=0.0, **hyper)
        state = optimizer.state[param]
        state["step"] = state["failures"] = 0
        for axis, dim in enumerate(shape):
            K = torch.eye(dim) + 0.1 * normal(dim, dim, seed=60 + 10 * problem + axis)
            P = K @ K.mT
            state[f"factor_{axis}"] = K if cls is IFShampoo else P.inverse()
            state |= {} if cls is IFShampoo else {f"inverse_{axis}": P}
        param.grad = 0.3 * normal(*shape, seed=60 + 10 * problem + 9)
        optimizer.step()
        found = [state[f"{'factor' if cls is IFShampoo else 'inverse'}_{axis}"] for axis in range(len(shape))]
        inverses = [K @ K.mT for K in found] if cls is IFShampoo else found
        return -param.detach(), [matrix_power(P, 0.5) for P in inverses]

    gaps = torch.zeros(2, problems, len(STEP_SIZES), dtype=torch.float64)
    for i, (j, h) in itertools.product(range(problems), enumerate(STEP_SIZES)):
        grad = 0.3 * normal(*shape, seed=60 + 10 * i + 9)
        (step, (L, R)), (twin, (twin_L, twin_R)) = learned(IFShampoo, h, i), learned(RFShampoo, h, i)
        gaps[0, i, j] = (step - twin).norm()
        gaps[1, i, j] = (L @ grad @ R - twin_L @ grad @ twin_R).norm()
    name = "natural step in Kronecker factors (IFShampoo)"
    return [slope_of(name, power, gap) for power, gap in zip((1.0, 0.5), gaps, strict=True)]
