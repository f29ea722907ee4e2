"""Arithmetic on lists of tensors: as multi-tensor operations, or spelled out inside a compiled function."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor


def foreach(operation: str, tensors: list[Tensor], *others: Any, **scalars: float) -> list[Tensor]:
    """Apply `Tensor.<operation>` to each of a list of tensors as one multi-tensor operation; `others` may be lists too.

    A compiled function fuses operations anyway: there they are spelled out tensor by tensor, with explicit casts, since
    inductor then rounds low-precision results where eager operations do. Both compute in float32 at least. A number
    that enters a compiled function as a 0-d float64 tensor is taken in the dtype of the arithmetic, as Python's is.
    """
    if not torch.compiler.is_compiling():
        return getattr(torch, f"_foreach_{operation}")(tensors, *others, **scalars)
    columns = [other if isinstance(other, list) else [other] * len(tensors) for other in others]
    function = getattr(Tensor, operation.removesuffix("_"))
    results = []
    for tensor, *row in zip(tensors, *columns, strict=True):
        first = _widened(tensor)
        wide = [_widened(other) if isinstance(column, list) else _taken_in(other, first)
                for other, column in zip(row, others, strict=True)]  # fmt: skip
        results.append(function(first, *wide, **scalars).to(tensor.dtype))
    if operation.endswith("_"):
        for tensor, result in zip(tensors, results, strict=True):
            tensor.copy_(result)
    return results


def _taken_in(number: Any, tensor: Tensor) -> Any:
    return number.to(tensor.dtype) if isinstance(number, Tensor) else number


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16) else value


def scale_(tensors: list[Tensor], factor: float | Tensor) -> None:
    """Do x <- factor x in place, rounding the product only.

    The factor goes in as a tensor, since on a CPU `_foreach_mul_` rounds a Python number to the dtype of x first, 0.9
    to 0.8984 in bfloat16. It is no wider than needed, since the product of two 0-d tensors is taken in the wider dtype.
    """
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    foreach("mul_", tensors, torch.as_tensor(factor, dtype=torch.float64 if wide else torch.float32))


def as_tensors(numbers: dict[str, Any], device: torch.device) -> dict[str, Tensor | None]:
    """Turn numbers into what enters a compiled step, since a new Python number would compile again; None stays.

    They are filled in on the device, which waits for nothing, as a copy would.
    """
    return {
        key: number.to(device, torch.float64) if isinstance(number, Tensor)
        else None if number is None else torch.full((), number, dtype=torch.float64, device=device)
        for key, number in numbers.items()
    }  # fmt: skip


def add_scaled_(tensors: list[Tensor], others: list[Tensor], factor: float | Tensor) -> None:
    """Do x <- x + factor y in place; a factor that is a tensor may change without compiling again."""
    if isinstance(factor, Tensor):
        foreach("add_", tensors, foreach("mul", [_widened(other) for other in others], factor))
    else:
        foreach("add_", tensors, others, alpha=factor)


def add_squares_(tensors: list[Tensor], others: list[Tensor], factor: float | Tensor) -> None:
    """Do x <- x + factor y^2 in place; a factor that is a tensor may change without compiling again."""
    if isinstance(factor, Tensor):
        wide = [_widened(other) for other in others]
        foreach("add_", tensors, foreach("mul", foreach("mul", wide, factor), wide))
    else:
        foreach("addcmul_", tensors, others, others, value=factor)


def descend_(
    params: list[Tensor],
    directions: list[Tensor],
    lr: float | Tensor,
    max_update_rms: float | Tensor | None,
    weight_decay: float | Tensor | None = None,
    momentum_buffers: Sequence[Tensor] = (),
    momentum: float | Tensor = 0.0,
) -> None:
    """Clip directions, which are written to, add weight decay, and step with heavy-ball momentum; None leaves it out.

    Clipping shortens a direction whose root mean square is larger than `max_update_rms` to that.
    """
    if max_update_rms is not None:
        for direction in directions:
            dtype = torch.promote_types(direction.dtype, torch.float32)
            rms = torch.linalg.vector_norm(direction, dtype=dtype) / direction.numel() ** 0.5
            direction.mul_((max_update_rms / rms).clamp(max=1).to(direction.dtype))
    if weight_decay is not None:
        add_scaled_(directions, params, weight_decay)
    if momentum_buffers:
        buffers = list(momentum_buffers)
        scale_(buffers, momentum)
        foreach("add_", buffers, directions)
        directions = buffers
    add_scaled_(params, directions, -lr)


def divide(numerators: list[Tensor], denominators: list[Tensor]) -> list[Tensor]:
    """Return n / d, on a CPU in the memory of d: there, fetching memory for it takes longer than the arithmetic."""
    if not denominators[0].is_cpu or torch.compiler.is_compiling():
        return foreach("div", numerators, denominators)
    return [torch.div(n, d, out=d) for n, d in zip(numerators, denominators, strict=True)]


def pieces(params: list[Tensor], whole: bool) -> Iterator[list[Tensor]]:
    """Split parameters into lists to update one after the other: all of a device, or less on a CPU if not `whole`.

    There a list should fit into the cache, so that only the first of the operations waits for memory.
    """
    piece: list[Tensor] = []
    for param in params:
        full = param.is_cpu and not whole and sum(other.numel() for other in piece) + param.numel() > 2**16
        if piece and (full or param.device != piece[0].device):
            yield piece
            piece = []
        piece.append(param)
    if piece:
        yield piece


@cache
def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile an update once per set of shapes and of options that change its code: one process may well see many.

    Raises:
        RuntimeError: torch is too old to compile as often as that.
    """
    if "recompile_limit" not in inspect.signature(torch.compile).parameters:
        raise RuntimeError(f"compile=True needs torch 2.12 or newer, this is {torch.__version__}: leave it False")
    return torch.compile(  # type: ignore[call-overload]  # its overloads lack recompile_limit
        function,
        fullgraph=True,
        dynamic=False,
        recompile_limit=256,
        options={"emulate_precision_casts": True},  # round low-precision intermediates as eager operations do
    )
