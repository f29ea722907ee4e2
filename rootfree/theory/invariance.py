"""C11: rescaled losses and reparameterised parameters."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rootfree.optim import RFRMSProp
from rootfree.theory.measured import Measured, classifier, label, line, matrix_power, normal, relative, settle

Loss = Callable[[Tensor], Tensor]


def quadratic(dim: int) -> tuple[Loss, Tensor]:
    """Return mu -> 1/2 (mu - 1)^T H (mu - 1) with eigenvalues of H from 0.1 to 10, and a starting point."""
    Q = torch.linalg.qr(normal(dim, dim, seed=1)).Q
    H = (Q * torch.logspace(-1, 1, dim, dtype=torch.float64)) @ Q.mT
    return lambda mu: 0.5 * (mu - 1) @ H @ (mu - 1), normal(dim, seed=2)


def mlp() -> tuple[Loss, Tensor]:
    """Return the mean cross-entropy of a small network on 64 random examples, and a starting point."""
    logits, start = classifier(3, 4, 3)
    x, y = normal(64, 3, seed=4), torch.arange(64) % 3
    return lambda flat: nn.functional.cross_entropy(logits(flat, x), y), start


def loss_rescaling(
    scales: Sequence[float] = (1 / 16, 1 / 4, 1, 4, 16), steps: int = 5, batch_size: float = 64
) -> list[Measured]:
    """C11: how the steps of `RFRMSProp` change when the loss is multiplied by c, as the exponent k in c^k.

    With g -> c g and s0 -> c^2 s0 all of s is multiplied by c^2, the step by c^(1 - 2p): k = -1 root-free, 0 rooted.
    If the curvature of c times the loss is taken for what it is, c times that of the loss (B -> B / c, s0 -> c s0), the
    step is multiplied by c^(1 - p): k = 0 root-free, 1/2 rooted. Derived here.
    """
    loss, start = mlp()
    grads = [torch.func.grad(loss)(start + 0.1 * normal(len(start), seed=10 + i)) for i in range(steps)]

    def log_length(power: float, c: float, curvature: bool) -> float:
        param = nn.Parameter(start.clone())
        size, init = (batch_size / c, c) if curvature else (batch_size, c**2)
        hyper: dict[str, Any] = {"batch_size": size, "init": init, "beta2": 0.9, "damping": 0, "momentum": 0.5}
        optimizer = RFRMSProp([param], lr=0.01, power=power, **hyper)
        for grad in grads:
            param.grad = c * grad
            optimizer.step()
        return (param - start).norm().log().item()

    rows = []
    for curvature, power in itertools.product((False, True), (1.0, 0.5)):
        slope, _ = line([math.log(c) for c in scales], [log_length(power, c, curvature) for c in scales])
        setting = f"{label(power)}, {'curvature rescaled too' if curvature else 'loss rescaled'}, MLP"
        expected = f"{1 - power if curvature else 1 - 2 * power:g} ± 1e-6"
        rows.append(Measured("C11", "loss_rescaling", setting, "k of step ~ c^k", settle(slope), None, expected))
    return rows


def diagonal_steps(loss: Loss, start: Tensor, second_moment: Tensor, power: float, steps: int, lr: float) -> Tensor:
    """Where `RFRMSProp` with damping 0 gets from a given second moment."""
    param = nn.Parameter(start.clone())
    optimizer = RFRMSProp([param], lr=lr, batch_size=16, beta2=0.9, damping=0, momentum=0.5, power=power)
    optimizer.state[param] = {"second_moment": second_moment.diagonal().clone(), "momentum_buffer": 0 * start}
    for _ in range(steps):
        optimizer.zero_grad()
        loss(param).backward()
        optimizer.step()
    return param.detach()


def full_matrix_steps(loss: Loss, start: Tensor, second_moment: Tensor, power: float, steps: int, lr: float) -> Tensor:
    """Where S <- (1 - h) S + h B g g^T, mu <- mu - lr S^-p g gets from a given S (paper, full-matrix form)."""
    mu, S = start.clone(), second_moment.clone()
    for _ in range(steps):
        g = torch.func.grad(loss)(mu)
        S = 0.9 * S + 0.1 * 16 * torch.outer(g, g)
        mu = mu - lr * (torch.linalg.solve(S, g) if power == 1 else matrix_power(S, -power) @ g)
    return mu


def reparameterisation(steps: int = 10, lr: float = 0.02, powers: Sequence[float] = (1.0, 0.5, 0.0)) -> list[Measured]:
    """C11: the equivariance error under mu = A z + b, ||(A z_T + b) - mu_T|| / ||mu_T - mu_0|| after T steps.

    Both runs start at the same point and the same S0, that is S0_z = A^T S0 A; damping is 0. Then g_z = A^T g and
    S_z = A^T S A, so that A S_z^-1 g_z = S^-1 g exactly, which holds for no other exponent (derived here; affine
    invariance is the paper's claim for root-free methods). A diagonal method commutes with diagonal maps only.
    """
    rows = []
    for name, (loss, start) in {"quadratic": quadratic(8), "MLP": mlp()}.items():
        dim = len(start)
        scale, b = normal(dim, seed=5).exp(), normal(dim, seed=6)
        maps = {"diagonal": scale.diag(), "full": torch.eye(dim).double() + normal(dim, dim, seed=7) / dim**0.5 / 2}
        S0 = torch.eye(dim, dtype=torch.float64)
        methods = {"RFRMSProp": diagonal_steps, "full-matrix": full_matrix_steps}
        for (method, run), (kind, A), power in itertools.product(methods.items(), maps.items(), powers):
            mu = run(loss, start, S0, power, steps, lr)
            z_start = torch.linalg.solve(A, start - b)
            z = run(lambda z, A=A, b=b, loss=loss: loss(A @ z + b), z_start, A.mT @ S0 @ A, power, steps, lr)  # type: ignore[misc]
            error = relative(A @ z + b - mu, mu - start)
            holds = power == 1 and (kind == "diagonal" or run is full_matrix_steps)
            setting = f"{label(power)}, {method}, {kind} map, {name}"
            expected = "0 ± 1e-9" if holds else "> 0.01"
            rows.append(Measured("C11", "reparameterisation", setting, "equivariance error", error, None, expected))
    return rows
