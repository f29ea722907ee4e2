"""Two optimizers as one: matrices to the first, all other parameters to the second."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class ByShape(torch.optim.Optimizer):
    """One `torch.optim.Optimizer` made of two, for methods that take matrices only, such as torch's `Muon`.

    Example:
        >>> adamw = partial(torch.optim.AdamW, lr=3e-4)
        >>> optimizer = ByShape(model.parameters(), lr=0.02, matrices=torch.optim.Muon, rest=adamw)

    A matrix is a parameter with two axes; the weight of a convolution has four. The parameter groups are those of the
    matrices and then those of the rest, so schedulers, checkpoints and training loops see one optimizer.

    Args:
        params: Parameters, or dicts of parameter groups; what such a group sets holds for its matrices and its rest.
        lr: Step size of the matrices.
        matrices: Makes their optimizer, called as `matrices(groups, lr=lr)`; in a yaml, a block with `_partial_: true`.
        rest: Makes the other, called as `rest(groups)`: it brings its own step size.

    Raises:
        ValueError: `matrices` brings a step size, which `lr` would overrule.
    """

    def __init__(self, params: Iterable[Any], *, lr: float | Tensor, matrices: Any, rest: Any) -> None:
        if "lr" in getattr(matrices, "keywords", {}):
            raise ValueError(f"matrices.lr = {matrices.keywords['lr']!r} is not allowed: lr is that of the matrices")
        lr = lr if isinstance(lr, Tensor) else float(lr)  # a number of numpy would be in no checkpoint
        params = list(params)
        groups = params if params and isinstance(params[0], dict) else [{"params": params}]
        parts: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        for group in groups:
            members = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
            for part, is_matrix in zip(parts, (True, False), strict=True):
                if own := [param for param in members if (param.ndim == 2) == is_matrix]:
                    part.append({**group, "params": own})
        nothing: list[dict[str, Any]] = [{"params": []}]  # an optimizer takes an empty group, but not no group
        self.parts: list[torch.optim.Optimizer] = [matrices(parts[0] or nothing, lr=lr), rest(parts[1] or nothing)]
        super().__init__([group for part in self.parts for group in part.param_groups], {"lr": lr})
        self._share()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take the groups of the two, which stay theirs; refuse others, which nothing would update."""
        if not any(param_group is group for part in self.parts for group in part.param_groups):
            raise NotImplementedError("ByShape takes no group of parameters after it was made: make a new one of all")
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Perform one step of both; `closure`, if given, re-evaluates the model and returns the loss, once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def train(self) -> None:
        """Put the parts that have modes, such as schedule-free ones, into that of training."""
        self._set_mode("train")

    def eval(self) -> None:
        """Put them into that of evaluation."""
        self._set_mode("eval")

    def _set_mode(self, mode: str) -> None:
        for part in self.parts:
            getattr(part, mode, lambda: None)()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, each part as it does by itself."""
        saved = list(state_dict["param_groups"])
        if len(saved) != len(self.param_groups):
            raise ValueError(f"the state has {len(saved)} parameter groups, and there are {len(self.param_groups)}")
        for part in self.parts:
            groups = [saved.pop(0) for _ in part.param_groups]
            ids = {key for group in groups for key in group["params"]}
            own = {key: state for key, state in state_dict["state"].items() if key in ids}
            part.load_state_dict({"state": own, "param_groups": groups})
        self._share()

    def _share(self) -> None:
        """Make groups and state of the parts this optimizer's own: the same objects."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state = defaultdict(dict)
        for part in self.parts:
            self.state.update(part.state)
            part.state = self.state

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "parts": self.parts}
