"""IF-Shampoo: Shampoo with neither a root nor an inverse, for any gradient of a mean loss and tensors of any order.

For a parameter mu of order N with axes of length d_1 ... d_N, (n) the unfolding along axis n, one factor K_n per axis:

    G~  <- sqrt(B) G with K_j^T applied on every axis j != n          batch_size = B;  G = p.grad
    m_n <- a2 m_n + (1 - a2)/2 [ (1 / prod_{j!=n} d_j) K_n^T G~_(n) G~_(n)^T K_n
                                 + lambda K_n^T K_n prod_{j!=n} tr(K_j^T K_j) / d_j - I ]
                                      factor_momentum_n = m_n, starts at 0;  precond_momentum = a2;  damping = lambda
    K_n <- K_n - b2 K_n m_n / max(1, ||m_n||_F)       factor_n = K_n, starts at I;  precond_lr = b2
    d   <- G with K_n K_n^T applied on every axis, + kappa mu         weight_decay = kappa
    buf <- a1 buf + d                                 momentum_buffer = buf, starts at 0;  momentum = a1
    mu  <- mu - b1 buf                                lr = b1

m_n and K_n are updated, all from the old factors, at the steps 0, T, 2T, ... before the gradient is preconditioned
(update_every = T). At rest K_n^T U_n K_n = I, where U_n is the covariance of the gradient along axis n, whitened
along the others, plus damping: the K_n K_n^T are the inverses of the Kronecker factors closest to the gradient's
second moment in the sense of the Gaussian KL divergence, and d is preconditioned with exponent 1.

Source: Lin, Dangel, Eschenhagen, Bae, Turner, Makhzani, "Can We Remove the Square-Root in Adaptive Gradient Methods? A
Second-Order Perspective", ICML 2024, Figure 3, in the form of the authors' package `sirfshampoo`
(github.com/f-dangel/sirfshampoo, commit 7bc5eaf, dense factors), which this file equals up to rounding. Published
implementations differ:

- The script of the paper's experiments (github.com/yorkerlin/remove-the-square-root, commit e26d7c9) quarters b2 for
  parameters named `norm`, `proj` or `bias` (here: use parameter groups), updates at each of the first 15 steps, keeps
  K K^T in memory, knows orders 1 to 4 only, and writes to `p.grad`. The AlgoPerf prototype limits m by its largest
  entry instead of its Frobenius norm.
- `sirfshampoo` needs the model and a hook to count the batch, counts steps for all parameters together, and keeps the
  momentum buffer in the parameter's dtype; here every parameter counts its own steps, and the buffer has the dtype of
  the factors.
- Both divide K by the root of its largest entry before forming products. That is neutral in exact arithmetic and avoids
  overflow in float16; bfloat16 has the range of float32, so it is left out here.
- In all of them, as here, axes of length 1 get no factor, and a scalar counts as a vector of length 1.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rootfree.optim.base import check
from rootfree.optim.kronecker import Batch, MatrixOptimizer, add_gram_, multiply, multiply_all, stack, unstack
from rootfree.optim.multi_tensor import descend_


def if_shampoo_(
    params: list[Tensor],
    grads: list[Tensor],
    factors: dict[int, Tensor],
    factor_momenta: dict[int, Tensor],
    momentum_buffers: list[Tensor],
    lr: float | Tensor,
    *,
    precond_lr: float,
    damping: float,
    momentum: float,
    precond_momentum: float,
    weight_decay: float | None,
    batch_size: float,
    max_update_rms: float | None,
    update_factors: bool,
) -> None:
    """Update equal-shaped parameters and their state in place by one step.

    Factors and their momenta are stacks (batch, d, d), by the place of their axis in the layout; the momenta are
    empty with `precond_momentum=0`, the buffers with `momentum=0`.
    """
    grad = stack(grads, factors)
    if update_factors:
        update_factors_(factors, factor_momenta, grad, precond_lr, damping, precond_momentum, batch_size)

    # One product with K K^T is cheaper than two where K K^T is cheap to form.
    formed = {place: factor @ factor.mT for place, factor in factors.items() if factor[0].numel() < grad[0].numel()}
    direction = multiply_all(formed, grad)
    for place, factor in factors.items():
        if place not in formed:
            direction = multiply(factor, multiply(factor.mT, direction, place), place)

    directions = unstack(direction, params[0].shape)
    descend_(params, directions, lr, max_update_rms, weight_decay, momentum_buffers, momentum)


def update_factors_(
    factors: dict[int, Tensor],
    factor_momenta: dict[int, Tensor],
    grad: Tensor,
    precond_lr: float,
    damping: float,
    precond_momentum: float,
    batch_size: float,
) -> None:
    """Update the factors of a stack of gradients in place."""
    # 1) What all axes share, from the old factors: the gradient whitened on every axis, and tr(K^T K) / d.
    white = multiply_all({place: factor.mT for place, factor in factors.items()}, grad)
    traces = {place: _norm(factor).square() / factor.shape[-1] for place, factor in factors.items()}

    # 2) One axis after the other.
    weight = (1 - precond_momentum) / 2
    for place, factor in factors.items():
        others = math.prod(trace for other, trace in traces.items() if other != place)
        scale = batch_size * factor.shape[-1] / grad[0].numel()
        m = factor_momenta[place] if factor_momenta else torch.zeros_like(factor)
        add_gram_(m, white, place, beta=precond_momentum, alpha=weight * scale)
        add_gram_(m, factor * others**0.5, 1, beta=1, alpha=weight * damping)
        m.diagonal(dim1=1, dim2=2).sub_(weight)
        factor.addcmul_(factor @ m, -precond_lr / _norm(m).clamp(min=1))


def _norm(matrices: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)  # Frobenius, (batch, 1, 1)


class IFShampoo(MatrixOptimizer):
    """Shampoo with neither a root nor an inverse: matrix products alone, in any dtype (equations: top of this file).

    Example:
        >>> optimizer = IFShampoo(model.parameters(), lr=1e-3, batch_size=128)
        >>> loss_function(model(inputs), targets).backward()  # the *mean* loss over the 128 examples
        >>> optimizer.step()

    The defaults are those of the authors' package, a first try and not tuned values; the authors' runs on
    vision transformers use `lr` 2e-4 to 5e-4, `precond_lr` 0.1 to 0.5, `damping` 5e-5 to 3e-4 and `update_every` 2. The
    hyper-parameters are not Adam's: without a root, `damping` has the units of B g^2 (Adam's eps corresponds to B
    eps^2), and a loss multiplied by c divides the step by c once the factors have settled. The factors start at the
    identity, so the first steps are SGD's. While ||m_n||_F > 1, as it is at the start for long axes, a factor moves
    by at most `precond_lr` in relative Frobenius norm.

    Cost: per axis of length d two d x d state tensors (one with `precond_momentum=0`), and a momentum buffer. With D
    the number of elements of a parameter, an update takes about 4 D d + 3 d^3 flops per axis and a step, with or
    without an update, min(4 D d, 2 D d + 2 d^3), where no axis is longer than `max_dim`: an embedding of 50,000 x 512
    has 0.6 GB of state. Nothing waits for the device.

    With `state_dtype="bfloat16"` factors, momenta and buffer are bfloat16, and so are the products. A factor then
    stands still where precond_lr |m_n| < 2^-9 relative to it, so `precond_lr` wants to be 0.05 or more.

    Args:
        params: Parameters, or dicts of parameter groups, which may set every argument below for themselves.
        lr: Step size b1, in units of the parameter times g, as SGD's; >= 0. A float or a 0-d tensor.
        batch_size: B, how many examples the mean loss is over; >= 1. With gradient accumulation the number over all
            micro-batches, with data-parallel processes the number over all processes.
        precond_lr: Step size b2 of the factors; >= 0. The counterpart of 1 - beta2 in methods with a moving average.
        damping: lambda, added to the gradient's second moment, in units of B g^2; > 0, or a zero gradient would let
            the factors grow without end.
        momentum: Heavy-ball momentum a1 without dampening, in [0, 1]; 0 keeps no buffer.
        precond_momentum: Momentum a2 of the factors, in [0, 1]; 0 keeps no buffer.
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
        state_dtype: dtype of the state and of the arithmetic on it ("float64", "float32", "float16", "bfloat16" or a
            torch dtype); None takes the parameter's. float16 can overflow.

    Raises:
        ValueError: If a value lies outside its range (the message names both), or, in a step, if a gradient is sparse
            or a parameter complex, an integer, or not whole: a DTensor, or a flat one of FullyShardedDataParallel.
    """

    ALWAYS = ("step", "factor")
    SOMETIMES = ("factor_momentum", "momentum_buffer")

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float | Tensor,
        batch_size: int,
        precond_lr: float = 0.01,
        damping: float = 1e-3,
        momentum: float = 0.9,
        precond_momentum: float = 0.5,
        weight_decay: float = 0.0,
        update_every: int = 1,
        max_dim: int = 1024,
        precondition_1d: bool = True,
        max_update_rms: float | None = None,
        skip_nonfinite: bool = False,
        state_dtype: str | torch.dtype | None = None,
    ) -> None:
        defaults = dict(lr=lr, batch_size=batch_size, precond_lr=precond_lr, damping=damping,
                        momentum=momentum, precond_momentum=precond_momentum, weight_decay=weight_decay,
                        update_every=update_every, max_dim=max_dim, precondition_1d=precondition_1d,
                        max_update_rms=max_update_rms, skip_nonfinite=skip_nonfinite,
                        state_dtype=state_dtype)  # fmt: skip
        super().__init__(params, defaults)

    def check_group(self, group: dict[str, Any]) -> None:  # noqa: D102
        super().check_group(group)
        check("damping", group["damping"], 0, open_low=True)

    def matrices(self, group: dict[str, Any]) -> dict[str, float]:  # noqa: D102
        return {"factor": 1.0} | ({"factor_momentum": 0.0} if group["precond_momentum"] != 0 else {})

    def update_batch(self, group: dict[str, Any], batch: Batch) -> list[int]:  # noqa: D102
        update_factors = batch.step % group["update_every"] == 0
        if_shampoo_(
            [block.param for block in batch.blocks],
            [block.grad for block in batch.blocks],
            batch.matrices("factor"),
            batch.matrices("factor_momentum") if group["precond_momentum"] != 0 and update_factors else {},
            batch.parts("momentum_buffer") if group["momentum"] != 0 else [],
            group["lr"],
            precond_lr=group["precond_lr"],
            damping=group["damping"],
            momentum=group["momentum"],
            precond_momentum=group["precond_momentum"],
            weight_decay=group["weight_decay"] or None,
            batch_size=group["batch_size"],
            max_update_rms=group["max_update_rms"],
            update_factors=update_factors,
        )
        return []
