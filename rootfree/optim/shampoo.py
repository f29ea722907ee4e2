"""Shampoo: the rooted matrix method, as the baseline of the root-free ones, for tensors of any order.

For a parameter W of order N, (n) the unfolding along axis n, one factor L_n per axis (L and R for a matrix):

    W   <- (1 - lr wd) W                              weight_decay = wd
    L_n <- beta2 L_n + (1 - beta2) G_(n) G_(n)^T      factor_n = L_n, starts at 0;  betas = (beta1, beta2);  G = p.grad
    R_n <- (L_n + eps I)^(-1/(2N))                    root_n = R_n, at the steps 0, T, 2T, ...: update_every = T
    M   <- beta1 M + (1 - beta1) G                    momentum_buffer = M, starts at 0
    d   <- M with R_n applied on every axis
    W   <- W - lr d                                   or, grafted: W <- W - lr (||a|| / ||d||) d

With `bias_correction`, in step t, L_n / (1 - beta2^t) takes the place of L_n, and M / (1 - beta1^t) that of M. In the
last line a is the direction Adam takes with the same betas (with bias corrections, and eps = 1e-8 in units of g),
a = M / (1 - beta1^t) / (sqrt(second_moment / (1 - beta2^t)) + 1e-8): the length of Adam's step in Shampoo's direction.

Source: Gupta, Koren, Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization", ICML 2018, with moving
averages; as the baseline of Lin et al., "Can We Remove the Square-Root in Adaptive Gradient Methods? A Second-Order
Perspective", ICML 2024. Their script (github.com/yorkerlin/remove-the-square-root, commit e26d7c9) uses a copy of
Meta's `distributed_shampoo` with no grafting, no bias correction, no blocking or merging of axes, decoupled weight
decay and roots every second step. This file follows those settings, with these differences:

- The script leaves its very first step unpreconditioned; here the first gradient already enters the roots that are
  applied to it.
- Its eigenvalues below zero, a rounding error, are shifted up together with all others; here they are set to zero
  before eps is added.
- A scalar, which the script cannot handle, counts as a vector of length 1. Axes of length 1 count towards N, as in
  the script.

Without grafting this is a weaker baseline than Shampoo as usually run.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rootfree.optim.base import check_betas, check_choice
from rootfree.optim.kronecker import (
    Batch,
    MatrixOptimizer,
    add_gram_,
    all_axes,
    inverse_root,
    multiply_all,
    refresh,
    stack,
    unstack,
)
from rootfree.optim.multi_tensor import descend_, scale_

GRAFTING_EPS = 1e-8  # Adam's default


def shampoo_(
    params: list[Tensor],
    grads: list[Tensor],
    factors: dict[int, Tensor],
    roots: dict[int, Tensor],
    momentum_buffers: list[Tensor],
    second_moments: list[Tensor],
    lr: float | Tensor,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    bias_correction: bool,
    max_update_rms: float | None,
    step: int,
    update_roots: bool,
) -> list[int]:
    """Update equal-shaped parameters and their state in place; return the places of those with a failed root.

    Factors and roots are stacks (batch, d, d), by the place of their axis in the layout. The momentum buffers are
    empty with beta1 = 0, the second moments without grafting; `step` counts from 1.
    """
    dtype = next(iter(factors.values())).dtype
    beta1, beta2 = betas
    if weight_decay != 0:
        scale_(params, 1 - lr * weight_decay)

    grad = stack(grads, factors)
    failed: list[int] = []
    for place, factor in factors.items():
        add_gram_(factor, grad, place, beta=beta2, alpha=1 - beta2)
        if update_roots:
            root = partial(inverse_root, eps=eps, exponent=1 / (2 * len(factors)))
            source = factor / (1 - beta2**step) if bias_correction else factor
            failed += [i * len(params) // len(grad) for i in refresh(roots[place], source, root)]

    averages = [grad.to(dtype) for grad in grads]
    if momentum_buffers:
        torch._foreach_lerp_(momentum_buffers, averages, 1 - beta1)
        averages = momentum_buffers
    directions = unstack(multiply_all(roots, stack(averages, factors)), params[0].shape)
    if bias_correction:
        torch._foreach_div_(directions, 1 - beta1**step)
    if second_moments:
        squares = torch._foreach_mul(grads, grads)
        torch._foreach_lerp_(second_moments, [square.to(dtype) for square in squares], 1 - beta2)
        denominators = torch._foreach_sqrt(torch._foreach_div(second_moments, 1 - beta2**step))
        torch._foreach_add_(denominators, GRAFTING_EPS)
        adam = torch._foreach_norm(torch._foreach_div(averages, denominators))
        lengths = torch._foreach_norm(directions)
        torch._foreach_clamp_min_(lengths, torch.finfo(dtype).tiny)  # a zero direction stays zero
        torch._foreach_mul_(lengths, 1 - beta1**step)
        torch._foreach_mul_(directions, torch._foreach_div(adam, lengths))
    descend_(params, directions, lr, max_update_rms)
    return failed


class Shampoo(MatrixOptimizer):
    """Shampoo with the inverse 1/(2N)-th root per axis of a tensor of order N (equations: top of this file).

    Example:
        >>> optimizer = Shampoo(model.parameters(), lr=1e-3, grafting="adam")
        >>> loss_function(model(inputs), targets).backward()
        >>> optimizer.step()

    The defaults are a first try, not tuned values. With `grafting="adam"`, a learning rate of Adam's is the place to
    start; without, the paper's runs on vision transformers use `lr` 0.03 to 0.05, `betas` (0.6 to 0.97, 0.97 to
    0.998) and `eps` 1e-9 to 5e-9.

    Cost: per axis of length d two d x d state tensors, a momentum buffer, and with grafting a second moment. With D
    the number of elements of a parameter, a step takes 4 D d flops per axis and new roots about 10 d^3 more, in an
    eigendecomposition that runs at a fraction of the speed of matrix products and waits for the device. Axes are no
    longer than `max_dim` here.

    Roots are computed in float32 at least, and again in float64 if that fails. If that fails too, the last good root
    stays (the identity before the first), and `state[p]["failures"]` counts it.

    Args:
        params: Parameters, or dicts of parameter groups, which may set every argument below for themselves.
        lr: Step size; >= 0. A float or a 0-d tensor.
        betas: Weights of the old moving average of the gradient, in [0, 1), and of the old factors, in [0, 1). 0 for
            the first keeps no buffer.
        eps: Added to the eigenvalues of the factors, in units of g^2; > 0.
        weight_decay: Decoupled weight decay, in units of 1 / lr; >= 0.
        update_every: T, an integer >= 1: roots are computed at every T-th step of a parameter, beginning with its
            first. The factors are updated at every step.
        grafting: None, or "adam" for steps of the length of Adam's.
        bias_correction: Divide M by 1 - beta1^t and L_n by 1 - beta2^t where they are used. Without it, early roots
            are as large as small factors make them. The length of Adam's step is always corrected.
        max_dim: An integer >= 1: a longer axis is cut into blocks of at most that length, as equal as can be, and each
            block of the parameter has factors, and a length of step, of its own.
        precondition_1d: Whether a vector has a factor like other parameters. False treats each of its coordinates as a
            vector of length 1: the diagonal form of the method, with two numbers per coordinate.
        max_update_rms: None, or > 0: the largest root mean square of a direction d (of a block), which is
            shortened to it. It bounds the step after a quiet stretch, when the denominator has become small.
        skip_nonfinite: Leave a parameter whose gradient is not finite, and its state, as they were, and count that in
            `state[p]["skipped"]`, without waiting for the device; a step copies the state, but for its
            `step`, which goes on.
        state_dtype: dtype of the state and of the products ("float64", "float32", "float16", "bfloat16" or a torch
            dtype); None takes the parameter's. Roots are computed in float32 at least.

    Raises:
        ValueError: If a value lies outside its range (the message names both), or, in a step, if a gradient is sparse
            or a parameter complex, an integer, or not whole: a DTensor, or a flat one of FullyShardedDataParallel.
    """

    ALWAYS = ("step", "failures", "factor", "root")
    SOMETIMES = ("momentum_buffer", "second_moment")
    SCALARS = ("step", "failures")

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float | Tensor,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        update_every: int = 1,
        grafting: str | None = None,
        bias_correction: bool = False,
        max_dim: int = 1024,
        precondition_1d: bool = True,
        max_update_rms: float | None = None,
        skip_nonfinite: bool = False,
        state_dtype: str | torch.dtype | None = None,
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
                        update_every=update_every, grafting=grafting, bias_correction=bias_correction, max_dim=max_dim,
                        precondition_1d=precondition_1d, max_update_rms=max_update_rms,
                        skip_nonfinite=skip_nonfinite, state_dtype=state_dtype)  # fmt: skip
        super().__init__(params, defaults)

    def check_group(self, group: dict[str, Any]) -> None:  # noqa: D102
        super().check_group(group)
        check_betas(group["betas"], open_high=True)
        check_choice("grafting", group["grafting"], (None, "adam"))

    def axes(self, shape: torch.Size) -> dict[int, int]:  # noqa: D102
        return all_axes(shape)

    def matrices(self, group: dict[str, Any]) -> dict[str, float]:  # noqa: D102
        return {"factor": 0.0, "root": 1.0}

    def buffers(self, group: dict[str, Any]) -> list[str]:  # noqa: D102
        wanted = {"momentum_buffer": group["betas"][0] != 0, "second_moment": group["grafting"]}
        return [name for name, needed in wanted.items() if needed]

    def update_batch(self, group: dict[str, Any], batch: Batch) -> list[int]:  # noqa: D102
        return shampoo_(
            [block.param for block in batch.blocks],
            [block.grad for block in batch.blocks],
            batch.matrices("factor"),
            batch.matrices("root"),
            batch.parts("momentum_buffer") if group["betas"][0] != 0 else [],
            batch.parts("second_moment") if group["grafting"] else [],
            group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            bias_correction=group["bias_correction"],
            max_update_rms=group["max_update_rms"],
            step=batch.step + 1,
            update_roots=batch.step % group["update_every"] == 0,
        )
