"""What the matrix methods share: blocks of parameters, stacks of them, and matrices applied to their axes.

A parameter with axes of length d_1 ... d_N has one d_n x d_n matrix per axis. One with an axis longer than `max_dim` is
cut into blocks without such an axis, each with matrices of its own. Blocks of equal shape are stacked into one tensor
(batch, *dims), their matrices into tensors (batch, d_n, d_n), so that each product is one batched multiplication. A
vector of length d that is treated by its coordinates is a stack of d blocks of length 1.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rootfree.optim.base import Optimizer, State, dtype_of_state

STACK_ELEMENTS = 2**20  # a product of this size fills the machine: larger stacks only cost memory and cache
BLOCK = 256  # symmetric products of at least this size are multiplied out by blocks, one triangle only
SHORT = 64  # products with middle axes of this length are bound by memory, not by arithmetic


class Block(NamedTuple):
    """A parameter, or a block of it, with its part of the gradient and the state of the parameter."""

    param: Tensor
    grad: Tensor
    state: State
    suffix: str  # of the keys of its matrices
    where: tuple[slice, ...]  # it lies in the parameter; () for all of it


class Batch(NamedTuple):
    """Blocks of equal shape, dtype, device and count of steps."""

    blocks: list[Block]
    axes: dict[int, int]  # {place in the layout: axis} of the axes that have matrices

    @property
    def step(self) -> int:
        """How many steps were made before."""
        return int(self.blocks[0].state["step"])

    def parts(self, key: str) -> list[Tensor]:
        """Return what the blocks have of state tensors that are like the parameters."""
        return [_part(block.state[key], block.where) for block in self.blocks]

    def matrices(self, name: str) -> dict[int, Tensor]:
        """Return {place: stack of matrices (batch, d, d)}, which share their memory with the state."""
        return {
            place: stacked([(block.state, f"{name}_{axis}{block.suffix}") for block in self.blocks])
            for place, axis in self.axes.items()
        }


class MatrixOptimizer(Optimizer):
    """An optimizer with matrices for the axes of its parameters."""

    SCALARS: tuple[str, ...] = ("step",)  # counts that start at 0
    WHOLE = True

    def axes(self, shape: torch.Size) -> dict[int, int]:
        """Return {place in the layout: axis} of the axes that have matrices."""
        return {place: axis for place, axis in all_axes(shape).items() if shape and shape[axis] > 1} or {0: 0}

    def matrices(self, group: dict[str, Any]) -> dict[str, float]:
        """Return {name: c} of the matrices that a group needs for each axis, which start at c I."""
        raise NotImplementedError

    def buffers(self, group: dict[str, Any]) -> list[str]:
        """Return the names of the state tensors like the parameters that a group needs."""
        return ["momentum_buffer"] if group["momentum"] != 0 else []

    def update_batch(self, group: dict[str, Any], batch: Batch) -> list[int]:
        """Update a batch of blocks in place; return the places of blocks with a matrix that could not be computed."""
        raise NotImplementedError

    def init_state(self, group: dict[str, Any], param: Tensor, state: State) -> None:  # noqa: D102
        dtype, device = dtype_of_state(group, param), param.device
        for key in self.SCALARS:
            state.setdefault(key, 0)
        diagonal = param.ndim == 1 and not group["precondition_1d"]
        for suffix, index in cut(param.shape, group):
            shape = [part.stop - part.start for part in index] or list(param.shape)
            for axis in self.axes(torch.Size(shape)).values():
                dim = shape[axis] if shape else 1
                for name, start in self.matrices(group).items():
                    if f"{name}_{axis}{suffix}" not in state:
                        matrix = torch.ones(dim, 1, 1, dtype=dtype, device=device) if diagonal else torch.eye(
                            dim, dtype=dtype, device=device)  # fmt: skip
                        state[f"{name}_{axis}{suffix}"] = matrix.mul_(start)
        for name in self.buffers(group):
            if name not in state:
                state[name] = torch.zeros_like(param, dtype=dtype)

    def update(self, group: dict[str, Any], params: list[Tensor], first: int) -> None:  # noqa: D102
        alike = defaultdict(list)
        for param, grad in zip(params, self.gradients(group, params), strict=True):
            state = self.state[param]
            for suffix, index in cut(param.shape, group):
                block = Block(_part(param, index), _part(grad, index), state, suffix, index)
                alike[block.param.shape, param.dtype, param.device, state["step"]].append(block)
        for (shape, *_), blocks in alike.items():
            count = max(1, STACK_ELEMENTS // max(math.prod(shape), *(dim**2 for dim in shape), 1))
            for start in range(0, len(blocks), count):
                batch = Batch(blocks[start : start + count], self.axes(shape))
                for i in self.update_batch(group, batch):
                    batch.blocks[i].state["failures"] += 1
        for param in params:
            self.state[param]["step"] += 1


def cut(shape: torch.Size, group: dict[str, Any]) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Yield (suffix of keys, index) of the blocks of a parameter: no axis longer than `max_dim`, lengths as equal as
    can be; a vector that is treated by its coordinates stays whole.
    """  # noqa: D205
    if (len(shape) == 1 and not group["precondition_1d"]) or max(shape, default=1) <= group["max_dim"]:
        yield "", ()
        return
    counts = [-(-dim // group["max_dim"]) for dim in shape]
    ends = [[dim * i // count for i in range(count + 1)] for dim, count in zip(shape, counts, strict=True)]
    for i, index in enumerate(product(*([slice(*pair) for pair in pairwise(axis)] for axis in ends))):
        yield f"_{i}", index


def _part(tensor: Tensor, index: tuple[slice, ...]) -> Tensor:
    return tensor[index] if index else tensor


def stacked(places: Sequence[tuple[State, str]]) -> Tensor:
    """Return the matrices `state[key]` as one tensor (batch, d, d) that shares their memory.

    The first call copies them into one buffer, of which every state then keeps its slice; later calls copy nothing.
    Tensors that are no such neighbours, because they were loaded or had another parameter between them, are stacked
    anew.
    """
    tensors = [state[key] for state, key in places]
    first, size = tensors[0], tensors[0].numel()
    if all(
        tensor.is_contiguous()
        and tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and tensor.storage_offset() == first.storage_offset() + i * size
        for i, tensor in enumerate(tensors)
    ):
        stack = first.as_strided((len(tensors), *first.shape), (size, *first.stride()))
    else:
        stack = torch.stack(tensors)
        for (state, key), tensor in zip(places, stack.unbind(), strict=True):
            state[key] = tensor
    return stack.view(-1, *first.shape[-2:])


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


def stack(tensors: Sequence[Tensor], factors: dict[int, Tensor]) -> Tensor:
    """Stack tensors of equal shape in their layout, as their factors are. Do not write to the result.

    A single tensor may share its memory with it.
    """
    shape, factor = tensors[0].shape, next(iter(factors.values()))
    batch = torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0].unsqueeze(0)
    if len(shape) < 2:
        batch = batch.reshape(-1, factor.shape[-1])
    else:
        batch = batch.permute(0, *(axis + 1 for axis in layout(shape)))
    return batch.to(factor.dtype).contiguous()


def unstack(batch: Tensor, shape: torch.Size) -> list[Tensor]:
    """Return the slices of a stack as views in the parameters' own shape."""
    if len(shape) < 2:
        return list(batch.view(-1, *shape).unbind())
    order = layout(shape)
    return list(batch.permute(0, *(order.index(axis) + 1 for axis in range(len(order)))).unbind())


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


def inverse_root(matrices: Tensor, eps: float, exponent: float) -> Tensor:
    """Return (L + eps I)^-exponent for symmetric L without negative eigenvalues but those of rounding."""
    values, vectors = torch.linalg.eigh(matrices)
    powers = (values.clamp(min=0) + eps).pow(-exponent)
    return (vectors * powers.unsqueeze(-2)) @ vectors.mT


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
