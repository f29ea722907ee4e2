"""What every optimizer of this package shares: validation, gradients, and a state that keeps its dtype."""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

State = dict[str, Any]


class Optimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` whose subclasses say what their state is, and how one group makes a step.

    Attributes:
        ALWAYS: what the state of every parameter holds; names of matrices without the axis they end in.
        SOMETIMES: what it may hold, too.
        WHOLE: whether a step needs whole parameters, since it treats their axes and not their coordinates.
    """

    ALWAYS: tuple[str, ...]
    SOMETIMES: tuple[str, ...] = ()
    WHOLE = False

    def check_group(self, group: dict[str, Any]) -> None:
        """Raise `ValueError` unless every hyper-parameter of a group is in its range; bring them into one form."""
        for key, (low, high, open_low) in RANGES.items():
            if key in self.defaults:
                check(key, group[key], low, high, open_low=open_low)
        for key in SWITCHES & self.defaults.keys():
            check_choice(key, group[key], (False, True))
        for key in INTEGERS & self.defaults.keys():
            check_integer(key, group[key])
        if group["max_update_rms"] is not None:
            check("max_update_rms", group["max_update_rms"], 0, open_low=True)
        group["state_dtype"] = dtype_name(group["state_dtype"])

    def init_state(self, group: dict[str, Any], param: Tensor, state: State) -> None:
        """Give the state of a parameter what it lacks."""
        raise NotImplementedError

    def update(self, group: dict[str, Any], params: list[Tensor], first: int) -> None:
        """Update parameters of one group, which have a gradient and a state, in place.

        Args:
            group: the group.
            params: those of its parameters.
            first: the place of the group's first parameter among all.
        """
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; a hyper-parameter that it does not set is the constructor's."""
        super().add_param_group(self._checked({**self.defaults, **param_group}))

    def _checked(self, group: dict[str, Any]) -> dict[str, Any]:
        for key in self.defaults.keys() & group.keys():
            if not (key == "lr" and isinstance(group[key], Tensor)):
                group[key] = _plain(group[key])
        self.check_group(group)
        return group

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step; `closure`, if given, re-evaluates the model and returns the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first = 0
        for group in self.param_groups:
            params = list(self.with_gradient(group))
            for param in params:
                self.init_state(group, param, self.state[param])
            before = [
                [tensor.clone() for tensor in self._tensors(param)] for param in params if group["skip_nonfinite"]
            ]
            self.update(group, params, first)
            for param, copies in zip(params, before, strict=False):  # take steps back: the device decides which
                finite = param.grad.isfinite().all()  # type: ignore[union-attr]
                for tensor, copy in zip(self._tensors(param), copies, strict=True):
                    tensor.copy_(torch.where(finite, tensor, copy))
                self.state[param]["skipped"] = self.state[param].get("skipped", 0) + (~finite).long()
            first += len(group["params"])
        return loss

    def _tensors(self, param: Tensor) -> list[Tensor]:
        return [param, *(value for value in self.state[param].values() if isinstance(value, Tensor))]

    def gradients(self, group: dict[str, Any], params: list[Tensor]) -> list[Tensor]:
        """Return the gradients of parameters, with `skip_nonfinite` zeros in the place of those that are not finite."""
        grads = [param.grad for param in params if param.grad is not None]
        return [torch.where(g.isfinite().all(), g, 0) for g in grads] if group["skip_nonfinite"] else grads

    def with_gradient(self, group: dict[str, Any]) -> Iterator[Tensor]:
        """Yield the group's parameters that have a gradient, and elements.

        Raises:
            ValueError: if a parameter or its gradient is of a kind that a step cannot take.
        """
        for param in group["params"]:
            if param.grad is None or param.numel() == 0:
                continue
            name, shape = type(self).__name__, tuple(param.shape)
            if param.grad.layout != torch.strided:
                raise ValueError(f"a sparse gradient (shape {shape}) is not supported by {name}: dense ones are")
            if not param.is_floating_point():
                kind = "a complex" if param.is_complex() else "an integer"
                raise ValueError(f"{kind} parameter (shape {shape}) is not supported by {name}: real ones are")
            if self.WHOLE and (part := _kind_of_shard(param)):
                raise ValueError(
                    f"{part} (shape {shape}) is not supported by {name}, whose matrices belong to the axes of whole "
                    "parameters: DistributedDataParallel keeps them whole; RFRMSProp and RFAdamW need only coordinates"
                )
            yield param

    @classmethod
    def state_bytes(cls, of: nn.Module | Iterable[Sequence[int]], **hyper: Any) -> int:
        """Count the bytes of the state that a model takes, or float32 parameters of some shapes, without making it.

        Args:
            of: the model, or the shapes.
            hyper: arguments of the class; `lr` and `batch_size` may be left out.
        """
        made = of.parameters() if isinstance(of, nn.Module) else (torch.empty(*shape, device="meta") for shape in of)
        params = [torch.empty_like(param, device="meta") for param in made if param.numel()]
        required = {"lr": 0.0, "batch_size": 1}.items()
        known = inspect.signature(cls).parameters
        optimizer: Any = cls(params, **{key: value for key, value in required if key in known} | hyper)
        state: State = {}
        total = 0
        for param in params:
            state.clear()
            optimizer.init_state(optimizer.param_groups[0], param, state)
            total += sum(value.nbytes for value in state.values() if isinstance(value, Tensor))
        return total

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state bit for bit: unlike torch's own, a state tensor keeps its dtype when the parameter's differs.

        A hyper-parameter that the state of an older version lacks stays as it is.

        Raises:
            ValueError: if it is the state of another optimizer, or of other parameters; nothing is loaded then.
        """
        saved_groups = state_dict["param_groups"]
        groups = [self._completed(group, saved) for group, saved in zip(self.param_groups, saved_groups, strict=False)]
        groups += saved_groups[len(groups) :]  # torch refuses another number of them
        ids = chain.from_iterable(group["params"] for group in saved_groups)
        params = list(chain.from_iterable(group["params"] for group in self.param_groups))
        states = [(param, state_dict["state"].get(key)) for key, param in zip(ids, params, strict=False)]
        group_of = chain.from_iterable([group] * len(group["params"]) for group in groups)
        for group, (param, saved) in zip(group_of, states, strict=False):
            if saved:
                self._check_state(group, param, saved)
        super().load_state_dict({**state_dict, "param_groups": groups})
        for param, saved in states:
            if saved is not None:
                self.state[param] = {key: _copy_to(value, param.device) for key, value in saved.items()}

    def _completed(self, group: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
        """Return a saved group with what it lacks, checked."""
        name = type(self).__name__
        if lacking := [key for key in ("lr", "batch_size") if key in self.defaults and key not in saved]:
            raise ValueError(f"this is not the state of {name}: its parameter groups lack {', '.join(lacking)}")
        return self._checked({**{key: group[key] for key in self.defaults.keys() & group.keys()}, **saved})

    def _check_state(self, group: dict[str, Any], param: Tensor, saved: State) -> None:
        """Refuse the saved state of a parameter that this class cannot have written, or not for such a parameter."""
        name, found = type(self).__name__, {re.sub(r"(_\d+)+$", "", str(key)) for key in saved}
        if foreign := sorted(found - {*self.ALWAYS, *self.SOMETIMES, "skipped"}):
            known = ", ".join((*self.ALWAYS, *self.SOMETIMES))
            raise ValueError(f"this is not the state of {name}: it holds {', '.join(foreign)}, and {name}'s {known}")
        if lacking := [key for key in self.ALWAYS if key not in found]:
            raise ValueError(f"this is not the state of {name}: it lacks {', '.join(lacking)}")
        expected: State = {}
        self.init_state(group, torch.empty_like(param, device="meta"), expected)
        for key, value in saved.items():
            matrix = re.search(r"(_\d+)+$", key)
            like = expected.get(f"factor{matrix[0]}") if matrix else param
            if isinstance(value, Tensor) and value.ndim and (like is None or value.shape != like.shape):
                blocks = f" with max_dim = {group['max_dim']}" if matrix else ""
                raise ValueError(f"{key} of shape {tuple(value.shape)} is not the state of a parameter of shape "
                                 f"{tuple(param.shape)}{blocks}")  # fmt: skip


def _copy_to(value: Any, device: torch.device) -> Any:
    """Copy a state value: tensors to `device` with dtype and layout kept, lists of tensors likewise."""
    if isinstance(value, Tensor):
        return value.detach().to(device=device, copy=True)
    if isinstance(value, list):
        return [_copy_to(item, device) for item in value]
    return deepcopy(value)


def _plain(value: Any) -> Any:
    """Turn the numbers of numpy and of tensors into Python's, which every checkpoint can hold."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_plain, value)) if isinstance(value, (tuple, list)) else value


def _kind_of_shard(param: Tensor) -> str | None:
    """Say what a parameter is that a process holds a part of, or None for a whole one."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    if hasattr(param, "full_tensor"):  # its class takes a while to import, and lies elsewhere in torch 2.4
        return "a DTensor"
    # FullyShardedDataParallel leaves parts in the place of its parameters, and marks them by this alone
    return "a parameter of FullyShardedDataParallel" if getattr(param, "_fsdp_flattened", False) else None


def check(
    name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False, open_high: bool = False
) -> None:
    """Raise `ValueError` unless `value` is a finite number in [low, high], without an end that is open; NaN never is.

    A 0-d tensor counts as a number.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    number = number or (isinstance(value, Tensor) and value.ndim == 0)
    if (
        not number
        or not (low < value if open_low else low <= value)
        or not (value < high if open_high else value <= high)
        or math.isinf(value)
    ):
        brackets = "(" if open_low else "[", ")" if open_high or math.isinf(high) else "]"
        raise ValueError(
            f"{name} = {value!r} is not allowed: a number in {brackets[0]}{low:g}, {high:g}{brackets[1]} is"
        )


def check_betas(betas: Any, *, open_high: bool = False) -> None:
    """Raise `ValueError` unless `betas` are two numbers in [0, 1], or in [0, 1) with `open_high`."""
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"betas = {betas!r} is not allowed: two numbers in [0, 1{')' if open_high else ']'} are")
    for i, beta in enumerate(betas):
        check(f"betas[{i}]", beta, 0, 1, open_high=open_high)


def check_integer(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is an integer of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} = {value!r} is not allowed: an integer in [1, inf) is")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} = {value!r} is not allowed: one of {', '.join(map(repr, choices))} is")


# What hyper-parameters may be, by name: (lowest, highest, whether the lowest itself is not allowed) of numbers
RANGES = {
    "lr": (0, math.inf, False),
    "batch_size": (1, math.inf, False),
    "beta2": (0, 1, False),
    "precond_lr": (0, math.inf, False),
    "damping": (0, math.inf, False),
    "eps": (0, math.inf, True),
    "momentum": (0, 1, False),
    "precond_momentum": (0, 1, False),
    "weight_decay": (0, math.inf, False),
    "init": (0, math.inf, False),
    "power": (0, math.inf, False),
}
SWITCHES = {"bias_correction", "compile", "precondition_1d", "skip_nonfinite"}
INTEGERS = {"update_every", "max_dim"}
STATE_DTYPES = ("float64", "float32", "float16", "bfloat16")


def dtype_name(state_dtype: str | torch.dtype | None) -> str | None:
    """Return the name of a state dtype ("bfloat16"), so that parameter groups hold plain Python values only."""
    name = str(state_dtype).removeprefix("torch.") if isinstance(state_dtype, torch.dtype) else state_dtype
    check_choice("state_dtype", name, (None, *STATE_DTYPES))
    return name


def dtype_of_state(group: dict[str, Any], param: Tensor) -> torch.dtype:
    """The dtype in which a group keeps the state of one of its parameters."""
    return getattr(torch, group["state_dtype"]) if group["state_dtype"] else param.dtype
