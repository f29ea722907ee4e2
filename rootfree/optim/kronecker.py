"""What the matrix methods share: stacks of equal-shaped parameters, and matrices applied to their axes.

A parameter with axes of length d_1 ... d_N has one d_n x d_n matrix per axis. Parameters of equal shape are stacked
into one tensor (batch, *dims), their matrices into tensors (batch, d_n, d_n), so that each product is one batched
multiplication.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]

STACK_ELEMENTS = 2**20  # a product of this size fills the machine: larger stacks only cost memory and cache
BLOCK = 256  # symmetric products of at least this size are multiplied out by blocks, one triangle only
SHORT = 64  # products with middle axes of this length are bound by memory, not by arithmetic


def batches(params: Iterable[Tensor], update_every: int, state: dict[Tensor, State]) -> Iterator[list[Tensor]]:
    """Yield parameters in lists of equal shape, dtype, device and phase of `update_every`."""
    alike = defaultdict(list)
    for param in params:
        phase = state[param].get("step", 0) % update_every
        alike[param.shape, param.dtype, param.device, phase].append(param)
    for (shape, *_), members in alike.items():
        count = max(1, STACK_ELEMENTS // max(math.prod(shape), *(dim**2 for dim in shape), 1))
        yield from (members[start : start + count] for start in range(0, len(members), count))


def stacked(states: Sequence[State], key: str) -> Tensor:
    """Return the tensors `state[key]` as one tensor (batch, ...) that shares their memory.

    The first call copies them into one buffer, of which every state then keeps its slice; later calls copy nothing.
    Tensors that are no such neighbours, because they were loaded or had another parameter between them, are stacked
    anew.
    """
    tensors = [state[key] for state in states]
    first, size = tensors[0], tensors[0].numel()
    if all(
        tensor.is_contiguous()
        and tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and tensor.storage_offset() == first.storage_offset() + i * size
        for i, tensor in enumerate(tensors)
    ):
        return first.as_strided((len(tensors), *first.shape), (size, *first.stride()))
    stack = torch.stack(tensors)
    for state, tensor in zip(states, stack.unbind(), strict=True):
        state[key] = tensor
    return stack


def layout(shape: torch.Size) -> list[int]:
    """Return the order in which a stack keeps a parameter's axes: the two longest outermost, a scalar as a vector.

    Products on the first and the last axis are large multiplications without a copy; the weight of a convolution is
    thus kept as (out, height, width, in).
    """
    longest = sorted(sorted(range(len(shape)), key=shape.__getitem__)[-2:]) or [0]
    return [longest[0], *(axis for axis in range(len(shape)) if axis not in longest), *longest[1:]]


def all_axes(shape: torch.Size) -> dict[int, int]:
    """Return {place in the layout: axis}; a scalar has one axis."""
    return dict(enumerate(layout(shape)))


def long_axes(shape: torch.Size) -> dict[int, int]:
    """Return {place in the layout: axis} of the axes longer than 1, and of one axis where there is none."""
    return {place: axis for place, axis in all_axes(shape).items() if shape and shape[axis] > 1} or {0: 0}


def stack(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Stack tensors of equal shape in their layout. A single one may share its memory: do not write to the result."""
    shape = tensors[0].shape
    batch = torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0].unsqueeze(0)
    batch = batch.permute(0, *(axis + 1 for axis in layout(shape))) if shape else batch.view(-1, 1)
    return batch.to(dtype).contiguous()


def unstack(batch: Tensor, shape: torch.Size) -> list[Tensor]:
    """Return the slices of a stack as views in the parameters' own shape."""
    order = layout(shape)
    batch = batch.permute(0, *(order.index(axis) + 1 for axis in range(len(order))))
    return list((batch if shape else batch.squeeze(1)).unbind())


def multiply(matrix: Tensor, batch: Tensor, place: int) -> Tensor:
    """Multiply `matrix` (batch, d, d) onto the axis at `place` of a stack."""
    size, dim = matrix.shape[:2]
    if place == batch.ndim - 2:
        return (batch.view(size, -1, dim) @ matrix.mT).view_as(batch)
    before = math.prod(batch.shape[1 : place + 1])
    return (matrix.unsqueeze(1) @ batch.view(size, before, dim, -1)).view_as(batch)


def multiply_all(matrices: dict[int, Tensor], batch: Tensor) -> Tensor:
    """Multiply {place: matrix} onto the axes of a stack; short middle axes (a convolution's) take one pass together."""
    middle = [matrix for place, matrix in matrices.items() if 0 < place < batch.ndim - 2]
    length = math.prod(matrix.shape[-1] for matrix in middle)
    if len(middle) > 1 and length == math.prod(batch.shape[2:-1]) <= SHORT:
        batch = multiply(reduce(_kron, middle), batch.flatten(2, -2), 1).view_as(batch)
        matrices = {place: matrix for place, matrix in matrices.items() if place in (0, batch.ndim - 2)}
    for place, matrix in matrices.items():
        batch = multiply(matrix, batch, place)
    return batch


def _kron(left: Tensor, right: Tensor) -> Tensor:
    return torch.einsum("bij,bkl->bikjl", left, right).flatten(3).flatten(1, 2)


def inner(left: Tensor, right: Tensor, place: int) -> Tensor:
    """Return left_(n) right_(n)^T, (batch, d, d): the inner products over all axes but the one at `place`."""
    size, dim = len(left), left.shape[place + 1]
    if place == left.ndim - 2:
        return left.view(size, -1, dim).mT @ right.view(size, -1, dim)
    before = math.prod(left.shape[1 : place + 1])
    products = left.view(size, before, dim, -1) @ right.view(size, before, dim, -1).mT
    return products.sum(1) if before > 1 else products.squeeze(1)


def add_gram_(products: Tensor, batch: Tensor, place: int, *, beta: float, alpha: float) -> None:
    """Do products <- beta products + alpha inner(batch, batch, place) in place, for symmetric products (batch, d, d).

    A large one costs little more than half the multiplications of `inner`.
    """
    size, dim = len(batch), batch.shape[place + 1]
    if place == 0 or place == batch.ndim - 2:
        rows = batch.view(size, dim, -1) if place < batch.ndim - 2 else batch.view(size, -1, dim).mT
        _add_gram_(products, rows, beta, alpha)
    else:
        products.mul_(beta).add_(inner(batch, batch, place), alpha=alpha)


def _add_gram_(products: Tensor, rows: Tensor, beta: float, alpha: float) -> None:
    half = rows.shape[1] // 2
    if rows.shape[1] < BLOCK:
        products.baddbmm_(rows, rows.mT, beta=beta, alpha=alpha)
        return
    _add_gram_(products[:, :half, :half], rows[:, :half], beta, alpha)
    _add_gram_(products[:, half:, half:], rows[:, half:], beta, alpha)
    upper = products[:, :half, half:].baddbmm_(rows[:, :half], rows[:, half:].mT, beta=beta, alpha=alpha)
    products[:, half:, :half] = upper.mT


def refresh(targets: Tensor, sources: Tensor, function: Callable[[Tensor], Tensor]) -> list[int]:
    """Do targets <- function(sources), stacks (batch, d, d), in float32 at least; return where in the batch it failed.

    A failure is a `LinAlgError` or a result that is not finite. Then each matrix is tried alone, if need be in
    float64; the target of one that still fails is left as it was.
    """
    wide = sources.to(torch.promote_types(sources.dtype, torch.float32))
    results = _attempt(function, wide)
    if results is not None:
        targets.copy_(results)
        return []
    failed = []
    for i, matrix in enumerate(wide):
        result = _attempt(function, matrix)
        if result is None:
            result = _attempt(function, matrix.double())
        if result is None:
            failed.append(i)
        else:
            targets[i].copy_(result)
    return failed


def _attempt(function: Callable[[Tensor], Tensor], matrices: Tensor) -> Tensor | None:
    try:
        result = function(matrices)
    except torch.linalg.LinAlgError:
        return None
    return result if result.isfinite().all() else None
