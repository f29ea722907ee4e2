"""RF-Shampoo: Shampoo without the root, with explicit inverses, for tensors of any order.

For a parameter mu of order N with axes of length d_1 ... d_N, (n) the unfolding along axis n, one factor S_n per axis:

    U_n <- (B / prod_{j!=n} d_j) G_(n) (kron_{j!=n} S_j^-1) G_(n)^T + lambda I prod_{j!=n} tr(S_j^-1) / d_j
                                                      batch_size = B;  damping = lambda;  G = p.grad
    S_n <- (1 - b2) S_n + b2 U_n                      factor_n = S_n, starts at I;  beta2 = 1 - b2;  inverse_n = S_n^-1
    d   <- G with S_n^-power applied on every axis, + kappa mu        weight_decay = kappa;  power_n = S_n^-power
    buf <- a1 buf + d                                 momentum_buffer = buf, starts at 0;  momentum = a1
    mu  <- mu - b1 buf                                lr = b1

All S_n are updated from the old factors, at the steps 0, T, 2T, ... before the gradient is preconditioned
(update_every = T). At rest S_n = E[U_n]: the Kronecker factors closest to the gradient's second moment in the sense
of the Gaussian KL divergence.

Source: the curvature that Lin et al., "Can We Remove the Square-Root in Adaptive Gradient Methods? A Second-Order
Perspective", ICML 2024, fit without inverses in IF-Shampoo, written for S instead of K with S^-1 = K K^T. With
power = 1/2 it is KL-Shampoo in its idealised form (Lin et al. 2025, arXiv 2509.03378; in practice they estimate the
eigenvalues apart from the eigenvectors). No implementation of this form is published; it is the explicit twin of
`rootfree.optim.if_shampoo`, and where that follows a choice (what the damping multiplies, weight decay after
preconditioning and inside the momentum, no factor for axes of length 1, a scalar as a vector), so does this.

How far the twins agree: from S_n = (K_n K_n^T)^-1 and with 1 - beta2 = precond_lr = b2, equal damping and
precond_momentum = 0, one update of both gives preconditioners that differ by O(b2^2), as long as ||m_n||_F <= 1.
Where IF-Shampoo's clip is active, as at the start of training for axes longer than 4, it takes shorter steps and the
difference is O(b2).
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rootfree.optim.kronecker import (
    Batch,
    MatrixOptimizer,
    inner,
    inverse_root,
    multiply,
    multiply_all,
    refresh,
    stack,
    unstack,
)
from rootfree.optim.multi_tensor import descend_


def rf_shampoo_(
    params: list[Tensor],
    grads: list[Tensor],
    factors: dict[int, Tensor],
    inverses: dict[int, Tensor],
    powers: dict[int, Tensor],
    momentum_buffers: list[Tensor],
    lr: float | Tensor,
    *,
    beta2: float,
    damping: float,
    momentum: float,
    weight_decay: float | None,
    batch_size: float,
    power: float,
    max_update_rms: float | None,
    update_factors: bool,
) -> list[int]:
    """Update equal-shaped parameters and their state in place; return the places of those with a failed inverse.

    Factors, inverses and powers are stacks (batch, d, d), by the place of their axis in the layout; the powers are
    empty with `power=1`, the buffers with `momentum=0`.
    """
    grad = stack(grads, factors)
    failed: list[int] = []
    if update_factors:
        update_factors_(factors, inverses, grad, beta2, damping, batch_size)
        for place, factor in factors.items():
            places = refresh(inverses[place], factor, _inverse)
            if powers:
                places += refresh(powers[place], factor, partial(inverse_root, eps=0.0, exponent=power))
            failed += [i * len(params) // len(grad) for i in places]

    directions = unstack(multiply_all(powers or inverses, grad), params[0].shape)
    descend_(params, directions, lr, max_update_rms, weight_decay, momentum_buffers, momentum)
    return failed


def update_factors_(
    factors: dict[int, Tensor],
    inverses: dict[int, Tensor],
    grad: Tensor,
    beta2: float,
    damping: float,
    batch_size: float,
) -> None:
    """Update the factors of a stack of gradients in place, from the old inverses."""
    traces = {place: inverse.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) for place, inverse in inverses.items()}
    before = grad  # the gradient with the inverses of the axes before this one applied
    for place, factor in factors.items():
        whitened = before
        for other, inverse in inverses.items():
            if other > place:
                whitened = multiply(inverse, whitened, other)
        others = math.prod(trace for other, trace in traces.items() if other != place)
        scale = batch_size * factor.shape[-1] / grad[0].numel()
        factor.mul_(beta2).add_(inner(whitened, grad, place), alpha=(1 - beta2) * scale)
        factor.diagonal(dim1=1, dim2=2).add_((1 - beta2) * damping * others)
        before = multiply(inverses[place], before, place)


def _inverse(matrices: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(matrices))


class RFShampoo(MatrixOptimizer):
    """Shampoo without the root: Kronecker factors of the second moment, inverted (equations: top of this file).

    Example:
        >>> optimizer = RFShampoo(model.parameters(), lr=1e-3, batch_size=128)
        >>> loss_function(model(inputs), targets).backward()  # the *mean* loss over the 128 examples
        >>> optimizer.step()

    It serves to check what `IFShampoo` computes without inverses, and as the explicit method in float32. The defaults
    are those of `IFShampoo` where they correspond, a first try and not tuned values. The hyper-parameters are not
    Adam's: without a root, `damping` has the units of B g^2 (Adam's eps corresponds to B eps^2), and a loss
    multiplied by c divides the step by c once the factors have settled. The factors start at the identity, so the
    first steps are SGD's.

    Cost: per axis of length d two d x d state tensors, and a momentum buffer. With D the number of elements of a
    parameter, a step takes 2 D d flops per axis, an update about 2 d^3 + 2 D d (N + 1) / 2 more, and waits for the
    device. Axes are no longer than `max_dim` here.

    An inverse is computed in float32 at least, by Cholesky, and again in float64 if that fails (low-precision factors
    can lose positive definiteness). If that fails too, the last good one stays, and `state[p]["failures"]` counts it.

    Args:
        params: Parameters, or dicts of parameter groups, which may set every argument below for themselves.
        lr: Step size b1, in units of the parameter times g, as SGD's; >= 0. A float or a 0-d tensor.
        batch_size: B, how many examples the mean loss is over; >= 1. With gradient accumulation the number over all
            micro-batches, with data-parallel processes the number over all processes.
        beta2: Weight of the old factors, in [0, 1]. The counterpart of 1 - `IFShampoo`'s `precond_lr`.
        damping: lambda, added to the gradient's second moment, in units of B g^2; >= 0. With 0 the factors become
            singular.
        momentum: Heavy-ball momentum a1 without dampening, in [0, 1]; 0 keeps no buffer.
        weight_decay: L2 coefficient kappa, added after preconditioning and inside the momentum; >= 0.
        update_every: T, an integer >= 1: the factors are updated at every T-th step of a parameter, beginning with
            its first.
        max_dim: An integer >= 1: a longer axis is cut into blocks of at most that length, as equal as can be, and each
            block of the parameter has factors of its own.
        precondition_1d: Whether a vector has a factor like other parameters. False treats each of its coordinates as a
            vector of length 1: the diagonal form of the method, with two numbers per coordinate.
        max_update_rms: None, or > 0: the largest root mean square of a preconditioned gradient (of a block), which is
            shortened to it. It bounds the step after a quiet stretch, when the denominator has become small.
        skip_nonfinite: Leave a parameter whose gradient is not finite, and its state, as they were, and count that in
            `state[p]["skipped"]`, without waiting for the device; a step copies the state, but for its
            `step`, which goes on.
        power: Exponent of S^-1 in the step; >= 0. 1 is root-free, 1/2 KL-Shampoo, 0 SGD up to rounding; others than 1
            take a third matrix per axis, and an eigendecomposition for each update.
        state_dtype: dtype of the state and of the products ("float64", "float32", "float16", "bfloat16" or a torch
            dtype); None takes the parameter's. Inverses are computed in float32 at least.

    Raises:
        ValueError: If a value lies outside its range (the message names both), or, in a step, if a gradient is sparse
            or a parameter complex, an integer, or not whole: a DTensor, or a flat one of FullyShardedDataParallel.
    """

    ALWAYS = ("step", "failures", "factor", "inverse")
    SOMETIMES = ("power", "momentum_buffer")
    SCALARS = ("step", "failures")

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float | Tensor,
        batch_size: int,
        beta2: float = 0.99,
        damping: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        update_every: int = 1,
        power: float = 1.0,
        max_dim: int = 1024,
        precondition_1d: bool = True,
        max_update_rms: float | None = None,
        skip_nonfinite: bool = False,
        state_dtype: str | torch.dtype | None = None,
    ) -> None:
        defaults = dict(lr=lr, batch_size=batch_size, beta2=beta2, damping=damping, momentum=momentum,
                        weight_decay=weight_decay, update_every=update_every, power=power, max_dim=max_dim,
                        precondition_1d=precondition_1d, max_update_rms=max_update_rms,
                        skip_nonfinite=skip_nonfinite, state_dtype=state_dtype)  # fmt: skip
        super().__init__(params, defaults)

    def matrices(self, group: dict[str, Any]) -> dict[str, float]:  # noqa: D102
        return {"factor": 1.0, "inverse": 1.0} | ({"power": 1.0} if group["power"] != 1 else {})

    def update_batch(self, group: dict[str, Any], batch: Batch) -> list[int]:  # noqa: D102
        return rf_shampoo_(
            [block.param for block in batch.blocks],
            [block.grad for block in batch.blocks],
            batch.matrices("factor"),
            batch.matrices("inverse"),
            batch.matrices("power") if group["power"] != 1 else {},
            batch.parts("momentum_buffer") if group["momentum"] != 0 else [],
            group["lr"],
            beta2=group["beta2"],
            damping=group["damping"],
            momentum=group["momentum"],
            weight_decay=group["weight_decay"] or None,
            batch_size=group["batch_size"],
            power=group["power"],
            max_update_rms=group["max_update_rms"],
            update_factors=batch.step % group["update_every"] == 0,
        )
