"""RF-RMSProp: RMSProp without the square root, for any gradient of a mean loss.

    s   <- (1 - b2) s + b2 B g^2                second_moment s, starts at `init`;  beta2 = 1 - b2;  batch_size = B
    d   <- g / (s + lambda)^power + kappa mu    damping = lambda;  weight_decay = kappa;  mu = the parameter
    buf <- a1 buf + d                           momentum_buffer buf, starts at 0;  momentum = a1
    mu  <- mu - b1 buf                          lr = b1

With `bias_correction`, in step t, s / (1 - beta2^t) takes the place of s in the second line.

Source: Lin, Dangel, Eschenhagen, Bae, Turner, Makhzani, "Can We Remove the Square-Root in Adaptive Gradient Methods? A
Second-Order Perspective", ICML 2024, Figures 4 and 7, as coded in the authors' `myoptim/rfrmsprop.py`
(github.com/yorkerlin/remove-the-square-root, commit e26d7c9), which this file follows: the current gradient enters s
before it is used, damping is added to the denominator without a root, weight decay comes after preconditioning and
inside the momentum, which is heavy ball without dampening, and nothing is corrected for bias. Figure 4 prints the form
without momentum, damping and weight decay.

Differences from that code, none of which changes a trajectory beyond rounding:

- It stores q = s / B and multiplies by B. Here s itself is stored. For a batch size that is a power of two both round
  alike in every dtype; for others B * (1 / B) is not always 1 (B = 49 in float64, 41 in float32), so that beta2 = 1
  would not be SGD exactly.
- It overwrites the gradient where state and gradient have the same dtype; here `p.grad` is never written.
- `power` generalises the exponent, `bias_correction` makes a start at 0 possible, and `rounding` offers a way out of
  the freeze described at `RFRMSProp`.

torch's `RMSprop` is not `power=0.5`: it adds weight decay to the gradient before squaring it, and eps (units of g)
after the root, where damping (units of B g^2) is added before it.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rootfree.optim.base import Optimizer, State, check, dtype_of_state
from rootfree.optim.multi_tensor import as_tensors, compiled, descend_, divide, foreach, pieces
from rootfree.optim.rounding import average_squares_, check_rounding, warn_of_freeze


def rf_rmsprop_(
    params: list[Tensor],
    grads: list[Tensor],
    second_moments: list[Tensor],
    momentum_buffers: list[Tensor],
    lr: float | Tensor,
    *,
    beta2: float | Tensor,
    damping: float | Tensor,
    momentum: float | Tensor,
    weight_decay: float | Tensor | None,
    batch_size: float | Tensor,
    max_update_rms: float | Tensor | None,
    power: float,
    bias_correction: bool,
    steps: list[Tensor],
    seeds: list[int],
) -> None:
    """Update parameters and state in place by one step.

    `momentum_buffers` is empty where momentum is 0, `steps` unless bias correction or stochastic rounding needs it,
    `seeds` unless rounding is stochastic. No weight decay is None. Numbers that are tensors may change without
    compiling again.
    """
    if steps:
        foreach("add_", steps, 1)
    grads = [grad.to(s.dtype) for grad, s in zip(grads, second_moments, strict=True)]
    average_squares_(second_moments, grads, beta2, (1 - beta2) * batch_size, steps, seeds)

    if bias_correction:
        second_moments = foreach("div", second_moments, [1 - beta2 ** step.double() for step in steps])
    denominators = foreach("add", second_moments, damping)
    if power == 0.5:
        foreach("sqrt_", denominators)
    elif power != 1:
        foreach("pow_", denominators, power)
    directions = divide(grads, denominators)
    descend_(params, directions, lr, max_update_rms, weight_decay, momentum_buffers, momentum)


class RFRMSProp(Optimizer):
    """RMSProp without the square root (the equations stand at the top of this file).

    Example:
        >>> optimizer = RFRMSProp(model.parameters(), lr=0.1, batch_size=128)  # lr: what SGD would get
        >>> loss_function(model(inputs), targets).backward()  # the *mean* loss over the 128 examples
        >>> optimizer.step()

    The hyper-parameters are not Adam's. Without the root the denominator has the units of B g^2, so `damping`
    corresponds to Adam's eps by damping = B eps^2: the default 1e-4 at B = 128 equals eps = 9e-4, and coordinates
    whose gradients stay below that move as in SGD with learning rate lr / damping. A multiple c of the loss divides
    the step by c, where Adam's stays. As long as s is near its initial value 1 the step is SGD's, so a good `lr` of
    SGD is the place to start; and as long as what is left of that start after t steps, beta2^t, exceeds B g^2, it is
    SGD's with a rate that grows as lr / beta2^t. The defaults are a first try for convolutional networks, not tuned
    values; none are known to be good everywhere.

    Cost: two state tensors, one without momentum: as many bytes as torch's AdamW needs or half of it, and half of that
    with `state_dtype="bfloat16"`. About 11 flops per parameter and step, so memory bandwidth decides.

    A bfloat16 state that is rounded to nearest never decays where 1 - beta2 < 2^-9 = 0.00195, and up to 2^-8 it stops
    within a factor of two. It then only grows, and only where g^2 is large, so the method is close to SGD. The paper's
    published CNN runs are of this kind. The optimizer warns once; `rounding="stochastic"` is the remedy.

    Args:
        params: Parameters, or dicts of parameter groups, which may set every argument below for themselves.
        lr: Step size b1, to be compared with SGD's; >= 0. A float, or a 0-d tensor.
        batch_size: B, how many examples the mean loss is over; >= 1. With gradient accumulation the number over all
            micro-batches, with data-parallel processes the number over all processes.
        beta2: Weight of the old second moment, in [0, 1]. 1 keeps s at `init`; with `damping=0` that is SGD bit for
        bit.
        damping: Added to s before the power, in units of B g^2; >= 0. With `init=0` and `damping=0`, a zero gradient
            gives 0 / 0 = NaN.
        momentum: Heavy-ball momentum without dampening, in [0, 1]; 0 keeps no buffer.
        weight_decay: L2 coefficient kappa, added after preconditioning and inside the momentum; >= 0.
        init: Initial value of s, the moving average of B g^2; >= 0. 1 is the paper's, 0 RMSProp's.
        power: Exponent of the denominator; >= 0. 1 is root-free, 1/2 rooted, 0 gives SGD exactly.
        bias_correction: Divide s by 1 - beta2^t, for `init=0`: a start that is forgotten at once. It needs beta2 < 1;
            a counter per parameter joins the state.
        max_update_rms: None, or > 0: the largest root mean square of a preconditioned gradient, which is
            shortened to it. It bounds the step after a quiet stretch, when the denominator has become small.
        skip_nonfinite: Leave a parameter whose gradient is not finite, and its state, as they were, and count that in
            `state[p]["skipped"]`, without waiting for the device; a step copies the state.
        state_dtype: dtype of the state and of the arithmetic on it ("float64", "float32", "float16", "bfloat16" or a
            torch dtype); None takes the parameter's.
        rounding: "nearest", or "stochastic" (needs `state_dtype="bfloat16"`): s is then updated in float32 and rounded
            without bias, with bits that depend on the step, the position of the parameter among all parameters, and the
            element; a counter per parameter joins the state. The momentum buffer is rounded to nearest either way: what
            it gains and loses in a step is large enough for bfloat16 to see.
        compile: Run the update of a group as one compiled kernel. The first step then takes up to a minute, the later
            ones are several times faster on a CPU. No number that changes compiles again, but `power`, and a momentum
            or weight decay that becomes 0 or ceases to be. Equal to eager up to the fusing of multiplication and
            addition.

    Raises:
        ValueError: If a value lies outside its range (the message names it and the range), or, in a step, if a gradient
            is sparse or a parameter complex or an integer.
    """

    ALWAYS = ("second_moment",)
    SOMETIMES = ("momentum_buffer", "step")

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float | Tensor,
        batch_size: int,
        beta2: float = 0.999,
        damping: float = 1e-4,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        init: float = 1.0,
        power: float = 1.0,
        bias_correction: bool = False,
        max_update_rms: float | None = None,
        skip_nonfinite: bool = False,
        state_dtype: str | torch.dtype | None = None,
        rounding: str = "nearest",
        compile: bool = False,
    ) -> None:
        defaults = dict(lr=lr, batch_size=batch_size, beta2=beta2, damping=damping, momentum=momentum,
                        weight_decay=weight_decay, init=init, power=power, bias_correction=bias_correction,
                        max_update_rms=max_update_rms, skip_nonfinite=skip_nonfinite,
                        state_dtype=state_dtype, rounding=rounding, compile=compile)  # fmt: skip
        super().__init__(params, defaults)

    def check_group(self, group: dict[str, Any]) -> None:  # noqa: D102
        super().check_group(group)
        check("beta2", group["beta2"], 0, 1, open_high=group["bias_correction"])
        check_rounding(group["rounding"], group["state_dtype"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:  # noqa: D102
        super().add_param_group(param_group)
        warn_of_freeze(self.param_groups, [group["beta2"] for group in self.param_groups])

    def init_state(self, group: dict[str, Any], param: Tensor, state: State) -> None:  # noqa: D102
        dtype = dtype_of_state(group, param)
        if not state:
            state["second_moment"] = torch.full_like(param, group["init"], dtype=dtype)
        if (group["rounding"] == "stochastic" or group["bias_correction"]) and "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.int64, device=param.device)
        if group["momentum"] != 0 and "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param, dtype=dtype)

    def update(self, group: dict[str, Any], params: list[Tensor], first: int) -> None:  # noqa: D102
        stochastic = group["rounding"] == "stochastic"
        counted = stochastic or group["bias_correction"]
        place = {param: first + i for i, param in enumerate(group["params"])} if stochastic else {}
        function = compiled(rf_rmsprop_) if group["compile"] else rf_rmsprop_
        numbers = {key: group[key] for key in ("lr", "beta2", "damping", "momentum", "batch_size", "max_update_rms")}
        numbers["weight_decay"] = group["weight_decay"] or None
        for piece in pieces(params, whole=group["compile"]):
            states = [self.state[param] for param in piece]
            function(
                piece,
                self.gradients(group, piece),
                [state["second_moment"] for state in states],
                [state["momentum_buffer"] for state in states] if group["momentum"] != 0 else [],
                power=group["power"],
                bias_correction=group["bias_correction"],
                steps=[state["step"] for state in states] if counted else [],
                seeds=[place[param] for param in piece] if stochastic else [],
                **(as_tensors(numbers, piece[0].device) if group["compile"] else numbers),
            )
