"""RF-AdamW: AdamW without the square root, for any gradient of a mean loss.

    mu <- (1 - b1 kappa) mu                     lr = b1;  weight_decay = kappa;  mu = the parameter
    m  <- beta1 m + (1 - beta1) g               first_moment m, starts at 0
    s  <- beta2 s + (1 - beta2) B g^2           second_moment s, starts at `init`;  batch_size = B
    mu <- mu - (b1 / c1) m / (s / c2 + lambda)  damping = lambda

with c1 = 1 - beta1^t and c2 = 1 - beta2^t in step t where `bias_correction` is set, else c1 = c2 = 1. In the paper's
notation beta2 = 1 - b2.

Source: the authors' `myoptim/rfadamw.py` (github.com/yorkerlin/remove-the-square-root, commit c8d43f2), which came
after the paper (Lin, Dangel, Eschenhagen, Bae, Turner, Makhzani, ICML 2024) without any published result. Unlike
RF-RMSProp it averages the raw gradient, before preconditioning and with dampening, and decays weights first and apart
from the step.

Differences from that code, none of which changes a trajectory beyond rounding: it stores q = s / B and multiplies by B,
here s itself is stored; its weight decay multiplies by 1 - lr weight_decay, here the product is subtracted; it rounds m
twice, after either product, here once.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rootfree.optim.base import Optimizer, State, check_betas, dtype_of_state
from rootfree.optim.multi_tensor import add_scaled_, as_tensors, compiled, descend_, divide, foreach, pieces
from rootfree.optim.rounding import average_squares_, check_rounding, warn_of_freeze


def rf_adamw_(
    params: list[Tensor],
    grads: list[Tensor],
    first_moments: list[Tensor],
    second_moments: list[Tensor],
    lr: float | Tensor,
    *,
    beta1: float | Tensor,
    beta2: float | Tensor,
    damping: float | Tensor,
    weight_decay: float | Tensor | None,
    batch_size: float | Tensor,
    max_update_rms: float | Tensor | None,
    bias_correction: bool,
    steps: list[Tensor],
    seeds: list[int],
) -> None:
    """Update parameters and state in place by one step.

    `steps` is empty unless bias correction or stochastic rounding needs it, `seeds` unless rounding is stochastic. No
    weight decay is None. Numbers that are tensors may change without compiling again.
    """
    if weight_decay is not None:
        add_scaled_(params, params, -lr * weight_decay)

    if steps:
        foreach("add_", steps, 1)
    grads = [grad.to(s.dtype) for grad, s in zip(grads, second_moments, strict=True)]
    foreach("lerp_", first_moments, grads, 1 - beta1)
    average_squares_(second_moments, grads, beta2, (1 - beta2) * batch_size, steps, seeds)

    if bias_correction:
        corrected = foreach("div", second_moments, [1 - beta2 ** step.double() for step in steps])
        directions = divide(first_moments, foreach("add", corrected, damping))
        foreach("div_", directions, [1 - beta1 ** step.double() for step in steps])
    else:
        directions = divide(first_moments, foreach("add", second_moments, damping))
    descend_(params, directions, lr, max_update_rms)


class RFAdamW(Optimizer):
    """AdamW without the square root (the equations stand at the top of this file).

    Example:
        >>> optimizer = RFAdamW(model.parameters(), lr=1e-4, batch_size=128)
        >>> loss_function(model(inputs), targets).backward()  # the *mean* loss over the 128 examples
        >>> optimizer.step()

    The hyper-parameters are not Adam's: `damping` is in the units of B g^2 and corresponds to Adam's eps by
    damping = B eps^2 (1e-4 at B = 128 equals eps = 9e-4), and a multiple c of the loss divides the step by c. No tuned
    values are known for this method; the defaults are a first try.

    Cost: two state tensors, as many bytes as torch's AdamW needs, half with `state_dtype="bfloat16"`; about 12 flops
    per parameter and step, so memory bandwidth decides. `bias_correction` adds a counter per parameter.

    A bfloat16 state that is rounded to nearest never decays where 1 - beta2 < 2^-9 = 0.00195, and up to 2^-8 it stops
    within a factor of two: the optimizer warns once, and `rounding="stochastic"` is the remedy.

    Args:
        params: Parameters, or dicts of parameter groups, which may set every argument below for themselves.
        lr: Step size b1; >= 0. A float, or a 0-d tensor.
        batch_size: B, how many examples the mean loss is over; >= 1. With gradient accumulation the number over all
            micro-batches, with data-parallel processes the number over all processes.
        betas: Weights of the old first and second moments, each in [0, 1]; below 1 with `bias_correction`.
        damping: Added to the denominator, in units of B g^2; >= 0. With `init=0` and `damping=0`, a zero gradient gives
            0 / 0 = NaN.
        weight_decay: Decoupled weight decay kappa: parameters shrink by lr * kappa in each step; >= 0.
        bias_correction: Divide the moments by 1 - beta^t. It is meant for `init=0`: with `init=1` it makes the first
            steps small, since s / c2 is then 1 / (1 - beta2^t) and more.
        init: Initial value of s, the moving average of B g^2; >= 0.
        max_update_rms: None, or > 0: the largest root mean square of a direction m / (s + lambda), which is
            shortened to it. It bounds the step after a quiet stretch, when the denominator has become small.
        skip_nonfinite: Leave a parameter whose gradient is not finite, and its state, as they were, and count that in
            `state[p]["skipped"]`, without waiting for the device; a step copies the state.
        state_dtype: dtype of the state and of the arithmetic on it ("float64", "float32", "float16", "bfloat16" or a
            torch dtype); None takes the parameter's.
        rounding: "nearest", or "stochastic" (needs `state_dtype="bfloat16"`): s is then updated in float32 and rounded
            without bias, with bits that depend on the step, the position of the parameter among all parameters, and the
            element; a counter per parameter joins the state. The first moment is rounded to nearest either way.
        compile: Run the update of a group as one compiled kernel. The first step then takes up to a minute, the later
            ones are several times faster on a CPU. No number that changes compiles again, but a weight decay that
            becomes 0 or ceases to be.

    Raises:
        ValueError: If a value lies outside its range (the message names it and the range), or, in a step, if a gradient
            is sparse or a parameter complex or an integer.
    """

    ALWAYS = ("first_moment", "second_moment")
    SOMETIMES = ("step",)

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float | Tensor,
        batch_size: int,
        betas: tuple[float, float] = (0.9, 0.999),
        damping: float = 1e-4,
        weight_decay: float = 0.0,
        bias_correction: bool = False,
        init: float = 1.0,
        max_update_rms: float | None = None,
        skip_nonfinite: bool = False,
        state_dtype: str | torch.dtype | None = None,
        rounding: str = "nearest",
        compile: bool = False,
    ) -> None:
        defaults = dict(lr=lr, batch_size=batch_size, betas=betas, damping=damping,
                        weight_decay=weight_decay, bias_correction=bias_correction, init=init,
                        max_update_rms=max_update_rms, skip_nonfinite=skip_nonfinite,
                        state_dtype=state_dtype, rounding=rounding, compile=compile)  # fmt: skip
        super().__init__(params, defaults)

    def check_group(self, group: dict[str, Any]) -> None:  # noqa: D102
        super().check_group(group)
        check_betas(group["betas"], open_high=group["bias_correction"])
        check_rounding(group["rounding"], group["state_dtype"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:  # noqa: D102
        super().add_param_group(param_group)
        warn_of_freeze(self.param_groups, [group["betas"][1] for group in self.param_groups])

    def init_state(self, group: dict[str, Any], param: Tensor, state: State) -> None:  # noqa: D102
        if not state:
            dtype = dtype_of_state(group, param)
            state["first_moment"] = torch.zeros_like(param, dtype=dtype)
            state["second_moment"] = torch.full_like(param, group["init"], dtype=dtype)
        if (group["rounding"] == "stochastic" or group["bias_correction"]) and "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.int64, device=param.device)

    def update(self, group: dict[str, Any], params: list[Tensor], first: int) -> None:  # noqa: D102
        stochastic = group["rounding"] == "stochastic"
        counted = stochastic or group["bias_correction"]
        place = {param: first + i for i, param in enumerate(group["params"])} if stochastic else {}
        function = compiled(rf_adamw_) if group["compile"] else rf_adamw_
        numbers = {key: group[key] for key in ("lr", "damping", "batch_size", "max_update_rms")}
        numbers |= {"beta1": group["betas"][0], "beta2": group["betas"][1]}
        numbers["weight_decay"] = group["weight_decay"] or None
        for piece in pieces(params, whole=group["compile"]):
            states = [self.state[param] for param in piece]
            function(
                piece,
                self.gradients(group, piece),
                [state["first_moment"] for state in states],
                [state["second_moment"] for state in states],
                bias_correction=group["bias_correction"],
                steps=[state["step"] for state in states] if counted else [],
                seeds=[place[param] for param in piece] if stochastic else [],
                **(as_tensors(numbers, piece[0].device) if group["compile"] else numbers),
            )
