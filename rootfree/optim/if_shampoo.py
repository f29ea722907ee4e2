"""draft"""

import math

import torch
from torch.optim.optimizer import ParamsT

from rootfree.optim.base import Optimizer, dtype_name
from rootfree.optim.kronecker import (
    apply,
    batches,
    gram,
    layout,
    stack,
    stacked,
    unstack,
)


def if_shampoo(
    params,
    grads,
    axes,
    factors,
    factor_momenta,
    buffers,
    *,
    lr,
    precond_lr,
    damping,
    momentum,
    precond_momentum,
    weight_decay,
    batch_size,
    update_factors,
):
    grad = stack(grads, axes, factors[0].dtype)
    if update_factors:
        update_factors_(factors, factor_momenta, grad, precond_lr, damping, precond_momentum, batch_size)
    step = grad
    for axis, factor in enumerate(factors):
        dim = factor.shape[-1]
        if dim * dim < step[0].numel():
            step = apply(factor @ factor.mT, step, axis)
        else:
            step = apply(factor, apply(factor.mT, step, axis), axis)
    steps = unstack(step, axes, params[0].shape)
    if weight_decay:
        torch._foreach_add_(steps, params, alpha=weight_decay)
    if buffers:
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, steps)
        steps = buffers
    torch._foreach_add_(params, torch._foreach_mul(steps, -lr))


def update_factors_(factors, momenta, grad, precond_lr, damping, precond_momentum, batch_size):
    white = grad
    for axis, factor in enumerate(factors):
        white = apply(factor.mT, white, axis)
    scales = [torch.linalg.vector_norm(f, dim=(1, 2), keepdim=True).square() / f.shape[-1] for f in factors]
    for axis, factor in enumerate(factors):
        dim = factor.shape[-1]
        others = math.prod(scale for j, scale in enumerate(scales) if j != axis)
        step = gram(factor, 1).mul_(damping / 2 * others)
        step.add_(gram(white, axis), alpha=batch_size * dim / white[0].numel() / 2)
        step.diagonal(dim1=1, dim2=2).sub_(0.5)
        if momenta:
            step = momenta[axis].lerp_(step, 1 - precond_momentum)
        norm = torch.linalg.vector_norm(step, dim=(1, 2), keepdim=True)
        factor.addcmul_(factor @ step, -precond_lr / norm.clamp(min=1))


class IFShampoo(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        *,
        lr,
        precond_lr=0.01,
        damping=1e-3,
        momentum=0.9,
        precond_momentum=0.5,
        weight_decay=0.0,
        batch_size,
        update_every=1,
        state_dtype=None,
    ):
        super().__init__(
            params,
            dict(
                lr=lr,
                precond_lr=precond_lr,
                damping=damping,
                momentum=momentum,
                precond_momentum=precond_momentum,
                weight_decay=weight_decay,
                batch_size=batch_size,
                update_every=update_every,
                state_dtype=dtype_name(state_dtype),
            ),
        )

    def update(self, group):
        for params in batches(group, self.state):
            axes = layout(params[0].shape)
            states = [self._state(p, axes, group) for p in params]
            due = states[0]["step"] % group["update_every"] == 0
            if_shampoo(
                params,
                [p.grad for p in params],
                axes,
                [stacked(states, f"factor_{a}") for a in axes],
                [stacked(states, f"factor_momentum_{a}") for a in axes] if group["precond_momentum"] and due else [],
                [s["momentum_buffer"] for s in states] if group["momentum"] else [],
                **{
                    k: group[k]
                    for k in (
                        "lr",
                        "precond_lr",
                        "damping",
                        "momentum",
                        "precond_momentum",
                        "weight_decay",
                        "batch_size",
                    )
                },
                update_factors=due,
            )
            for s in states:
                s["step"] += 1

    def _state(self, p, axes, group):
        s = self.state[p]
        if not s:
            dtype = getattr(torch, group["state_dtype"]) if group["state_dtype"] else p.dtype
            s["step"] = 0
            for a in axes:
                d = p.shape[a] if p.ndim else 1
                s[f"factor_{a}"] = torch.eye(d, dtype=dtype, device=p.device)
                if group["precond_momentum"]:
                    s[f"factor_momentum_{a}"] = torch.zeros(d, d, dtype=dtype, device=p.device)
            if group["momentum"]:
                s["momentum_buffer"] = torch.zeros_like(p, dtype=dtype)
        return s
