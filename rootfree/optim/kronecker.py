"""What the matrix methods share: stacks of equal-shaped parameters, and Kronecker factors applied to their axes.

A parameter of order N has one d_n x d_n factor per axis. Parameters of equal shape are stacked into one tensor
(batch, *dims) and their factors into tensors (batch, d_n, d_n), so that each product is one batched multiplication.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rootfree.optim.base import with_gradient

# Larger stacks gain nothing (one product already fills the machine) and cost memory and cache.
STACK_ELEMENTS = 2**21
BLOCK = 256

State = dict[str, Any]


def batches(group: dict[str, Any], state: dict[Tensor, State]) -> Iterator[list[Tensor]]:
    """Yield the group's parameters with a gradient in lists of equal shape, dtype, device and phase of the update."""
    alike = defaultdict(list)
    for param in with_gradient(group):
        phase = state[param].get("step", 0) % group["update_every"]
        alike[param.shape, param.dtype, param.device, phase].append(param)
    for params in alike.values():
        largest = max(params[0].numel(), *(dim**2 for dim in params[0].shape), 1)
        size = max(1, STACK_ELEMENTS // largest)
        yield from (params[start : start + size] for start in range(0, len(params), size))


def stacked(states: Sequence[State], key: str) -> Tensor:
    """Return the tensors `state[key]` as one tensor (batch, ...) that shares their memory.

    The first call copies them into one buffer and makes each state's tensor a view of its slice; later calls copy nothing. States
    that were loaded, or had another parameter between them, are simply stacked anew.
    """
    tensors = [state[key] for state in states]
    first, size = tensors[0], tensors[0].numel()
    adjacent = all(
        tensor.is_contiguous()
        and tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and tensor.storage_offset() == first.storage_offset() + index * size
        for index, tensor in enumerate(tensors)
    )
    if adjacent:
        return first.as_strided((len(tensors), *first.shape), (size, *first.stride()))
    stack = torch.stack(tensors)
    for state, tensor in zip(states, stack.unbind(), strict=True):
        state[key] = tensor
    return stack


def layout(shape: torch.Size, squeeze: bool = True) -> list[int]:
    """Return the axes that get a factor, in the order in which a stack keeps them: the two longest outermost.

    Products on the first and the last axis are then single large multiplications without a copy (a convolution's weight is
    kept as out, height, width, in). Axes of size 1 are left out with `squeeze`; a scalar counts as a vector of length 1.
    """
    axes = [axis for axis, dim in enumerate(shape) if dim > 1 or not squeeze] or [0]
    longest = sorted(sorted(axes, key=lambda axis: shape[axis])[-2:]) if len(axes) > 1 else axes
    return [longest[0], *(axis for axis in axes if axis not in longest), *longest[1:]]


def stack(tensors: Sequence[Tensor], axes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Stack equal-shaped tensors into (batch, *dims), dims in the order of `axes`."""
    batch = tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))
    shape = tensors[0].shape
    if shape:
        batch = batch.permute(_permutation(shape, axes))
    return batch.to(dtype).reshape(len(tensors), *(batch.shape[1:][: len(axes)] or (1,))).contiguous()


def unstack(batch: Tensor, axes: Sequence[int], shape: torch.Size) -> list[Tensor]:
    """Undo `stack`: views of the slices in the parameters' own shape."""
    if not shape:
        return list(batch.view(-1).unbind())
    order = _permutation(shape, axes)
    full = batch.view(len(batch), *(shape[axis - 1] for axis in order[1:]))
    return list(full.permute(sorted(range(len(order)), key=order.__getitem__)).unbind())


def _permutation(shape: torch.Size, axes: Sequence[int]) -> list[int]:
    return [0, *(axis + 1 for axis in axes), *(axis + 1 for axis in range(len(shape)) if axis not in axes)]


def apply(matrix: Tensor, batch: Tensor, axis: int) -> Tensor:
    """Multiply `matrix` (batch, d, d) onto one axis (0 is the first after the batch) of `batch`."""
    size, dim = matrix.shape[:2]
    if axis == batch.ndim - 2:
        return (batch.view(size, -1, dim) @ matrix.mT).view_as(batch)
    before = math.prod(batch.shape[1 : axis + 1])
    return (matrix.unsqueeze(1) @ batch.view(size, before, dim, -1)).view_as(batch)


def inner(left: Tensor, right: Tensor, axis: int) -> Tensor:
    """Return left_(n) right_(n)^T, the product of the two unfoldings along `axis`, as (batch, d, d)."""
    size, dim = len(left), left.shape[axis + 1]
    if axis == left.ndim - 2:
        return left.view(size, -1, dim).mT @ right.view(size, -1, dim)
    before = math.prod(left.shape[1 : axis + 1])
    products = left.view(size, before, dim, -1) @ right.view(size, before, dim, -1).mT
    return products.sum(1) if before > 1 else products.squeeze(1)


def gram(batch: Tensor, axis: int) -> Tensor:
    """Return `inner(batch, batch, axis)`; when large, only the upper blocks are multiplied out."""
    size, dim = len(batch), batch.shape[axis + 1]
    last = axis == batch.ndim - 2
    if dim < BLOCK or not (axis == 0 or last):
        return inner(batch, batch, axis)
    rows = batch.view(size, -1, dim).mT if last else batch.view(size, dim, -1)
    out = rows.new_empty(size, dim, dim)
    _fill_gram(rows, out)
    return out


def _fill_gram(rows: Tensor, out: Tensor) -> None:
    half = rows.shape[1] // 2
    if rows.shape[1] < BLOCK:
        torch.bmm(rows, rows.mT, out=out)
        return
    _fill_gram(rows[:, :half], out[:, :half, :half])
    _fill_gram(rows[:, half:], out[:, half:, half:])
    torch.bmm(rows[:, :half], rows[:, half:].mT, out=out[:, :half, half:])
    out[:, half:, :half] = out[:, :half, half:].mT
