"""What every optimizer of this package shares: validation, gradients, and a state that keeps its dtype."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor


class Optimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` whose subclasses write only `update(group)`: one step of one parameter group."""

    def update(self, group: dict[str, Any]) -> None:
        """Update the parameters of one group from their gradients, in place."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step; `closure`, if given, re-evaluates the model and returns the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self.update(group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state bit for bit: unlike torch's own, a state tensor keeps its dtype when the parameter's differs."""
        super().load_state_dict(state_dict)
        saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for saved_id, param in zip(saved_ids, params, strict=True):
            if saved_id in state_dict["state"]:
                saved = state_dict["state"][saved_id]
                self.state[param] = {key: _copy_to(value, param.device) for key, value in saved.items()}


def _copy_to(value: Any, device: torch.device) -> Any:
    """Copy a state value: tensors to `device` with dtype and layout kept, lists of tensors likewise."""
    if isinstance(value, Tensor):
        return value.detach().to(device=device, copy=True)
    if isinstance(value, list):
        return [_copy_to(item, device) for item in value]
    return deepcopy(value)


def with_gradient(group: dict[str, Any]) -> Iterator[Tensor]:
    """The group's parameters that have a gradient; `ValueError` for a sparse or complex one."""
    for param in group["params"]:
        if param.grad is None:
            continue
        if param.grad.is_sparse or torch.is_complex(param):
            kind = "sparse" if param.grad.is_sparse else "complex"
            raise ValueError(f"a {kind} gradient (shape {tuple(param.shape)}) is not supported: dense real ones are")
        yield param


def check(name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    """Raise `ValueError` unless `value` is a number in [low, high], or (low, high] with `open_low`; NaN never is."""
    number = isinstance(value, (int, float, Tensor)) and not isinstance(value, bool)
    if not number or not (low < value if open_low else low <= value) or not value <= high or math.isinf(value):
        bracket = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if math.isinf(high) else ']'}"
        raise ValueError(f"{name} = {value!r} is not allowed: a number in {bracket} is")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} = {value!r} is not allowed: one of {', '.join(map(repr, choices))} is")


STATE_DTYPES = ("float64", "float32", "float16", "bfloat16")


def dtype_name(state_dtype: str | torch.dtype | None) -> str | None:
    """Return the name of a state dtype ("bfloat16"), so that parameter groups hold plain Python values only."""
    name = str(state_dtype).removeprefix("torch.") if isinstance(state_dtype, torch.dtype) else state_dtype
    check_choice("state_dtype", name, (None, *STATE_DTYPES))
    return name


def dtype_of_state(group: dict[str, Any], param: Tensor) -> torch.dtype:
    """The dtype in which a group keeps the state of one of its parameters."""
    return getattr(torch, group["state_dtype"]) if group["state_dtype"] else param.dtype


def foreach(operation: str, tensors: list[Tensor], *others: Any, **scalars: float) -> list[Tensor]:
    """Apply `Tensor.<operation>` to each of a list of tensors as one multi-tensor operation; `others` may be lists too.

    A compiled function fuses operations anyway: there they are spelled out tensor by tensor, with explicit casts, since
    inductor then rounds low-precision results where eager operations do. Both compute in float32 at least.
    """
    if not torch.compiler.is_compiling():
        return getattr(torch, f"_foreach_{operation}")(tensors, *others, **scalars)
    columns = [other if isinstance(other, list) else [other] * len(tensors) for other in others]
    function = getattr(Tensor, operation.removesuffix("_"))
    results = [function(*map(_widened, row), **scalars).to(row[0].dtype) for row in zip(tensors, *columns, strict=True)]
    if operation.endswith("_"):
        for tensor, result in zip(tensors, results, strict=True):
            tensor.copy_(result)
    return results


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16) else value


def scale_(tensors: list[Tensor], factor: float | Tensor) -> None:
    """Do x <- factor x in place, rounding the product only.

    The factor goes in as a tensor, since on a CPU `_foreach_mul_` rounds a Python number to the dtype of x first, 0.9
    to 0.8984 in bfloat16. It is no wider than needed, since the product of two 0-d tensors is taken in the wider dtype.
    """
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    foreach("mul_", tensors, torch.as_tensor(factor, dtype=torch.float64 if wide else torch.float32))


def subtract_(params: list[Tensor], directions: list[Tensor], lr: float | Tensor) -> None:
    """Do p <- p - lr d in place as torch's own optimizers do; a tensor `lr` may change without compiling again."""
    if isinstance(lr, Tensor):
        foreach("sub_", params, foreach("mul", [_widened(direction) for direction in directions], lr))
    else:
        foreach("add_", params, directions, alpha=-lr)


def divide(numerators: list[Tensor], denominators: list[Tensor]) -> list[Tensor]:
    """Return n / d, on a CPU in the memory of d: there, fetching memory for it takes longer than the arithmetic."""
    if not denominators[0].is_cpu or torch.compiler.is_compiling():
        return foreach("div", numerators, denominators)
    return [torch.div(n, d, out=d) for n, d in zip(numerators, denominators, strict=True)]


def pieces(params: list[Tensor], whole: bool) -> Iterator[list[Tensor]]:
    """Split parameters into lists to update one after the other: all, unless they are on a CPU and not wanted `whole`.

    There a list should fit into the cache, so that only the first of the operations waits for memory.
    """
    piece: list[Tensor] = []
    for param in params:
        if piece and param.is_cpu and not whole and sum(other.numel() for other in piece) + param.numel() > 2**16:
            yield piece
            piece = []
        piece.append(param)
    if piece:
        yield piece


@cache
def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile an update once per set of shapes and hyper-parameters, of which one process may well see many."""
    return torch.compile(  # type: ignore[call-overload]  # its overloads lack recompile_limit
        function,
        fullgraph=True,
        dynamic=False,
        recompile_limit=256,
        options={"emulate_precision_casts": True},  # round low-precision intermediates as eager operations do
    )
