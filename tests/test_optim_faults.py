"""What users do to optimizers: foreign ones, old states, odd parameters, numbers of numpy, schedulers, many groups."""

import copy
import inspect
import io
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from rootfree.diagnostics import Diagnostics
from rootfree.optim import ByShape, IFShampoo, RFAdamW, RFRMSProp, RFShampoo, Shampoo, multi_tensor

Make = Callable[..., torch.optim.Optimizer]
OURS: dict[str, Make] = {
    "RFRMSProp": partial(RFRMSProp, lr=0.1, batch_size=8),
    "RFAdamW": partial(RFAdamW, lr=0.1, batch_size=8),
    "Shampoo": partial(Shampoo, lr=0.1),
    "RFShampoo": partial(RFShampoo, lr=0.1, batch_size=8),
    "IFShampoo": partial(IFShampoo, lr=0.1, batch_size=8),
}
each_of_ours = pytest.mark.parametrize("name", OURS)
MATRIX = ["Shampoo", "RFShampoo", "IFShampoo"]


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def step(optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    """One step on gradients that the seed alone decides."""
    generator = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.randn(param.shape, generator=generator)
    optimizer.step()


# optimizers of others


def foreign() -> Iterator[type[torch.optim.Optimizer]]:
    packages = [pytest.importorskip(name) for name in ("timm.optim", "pytorch_optimizer")]  # either takes seconds
    for package in (torch.optim, *packages):
        for _, found in sorted(vars(package).items()):
            if inspect.isclass(found) and issubclass(found, torch.optim.Optimizer):
                yield found


class Training:
    """A tiny network that an optimizer trains as `fit` does."""

    def __init__(self, make: Make) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
        self.optimizer = make(self.net.parameters(), lr=1e-3)
        getattr(self.optimizer, "train", lambda: None)()  # schedule-free methods ask for it
        self.probe = Diagnostics(self.optimizer)

    def step(self, left: int) -> None:
        torch.manual_seed(left)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.net(torch.randn(6, 3, 6, 6)), torch.arange(6) % 3).backward()
        self.probe.watch(left)
        self.optimizer.step()

    def load(self, saved: io.BytesIO) -> "Training":
        saved.seek(0)
        content = torch.load(saved, weights_only=True)
        self.net.load_state_dict(content["net"])
        self.optimizer.load_state_dict(content["optimizer"])
        return self

    def saved(self) -> io.BytesIO:
        stream = io.BytesIO()
        torch.save({"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}, stream)
        return stream

    def weights(self) -> list[Tensor]:
        return [param.detach().clone() for param in self.net.parameters()]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing by threads, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore")
def test_any_optimizer_trains_goes_on_from_its_state_and_is_described_or_refuses_before_a_step() -> None:
    trained, not_plain, refused = [], [], {}
    for make in foreign():
        try:
            run = Training(make)
        except Exception:  # it wants more than lr
            continue
        name, start = f"{make.__module__}.{make.__name__}", run.weights()
        try:
            run.step(left=3)
        except Exception as error:
            assert all(map(torch.equal, start, run.weights())), name
            refused[name] = str(error)
            continue
        run.step(left=2)
        try:
            other = Training(make).load(run.saved())
        except pickle.UnpicklingError:  # what a record's first checkpoint says, too
            not_plain.append(name)
            continue
        run.step(left=1)
        other.step(left=1)
        assert all(map(torch.equal, run.weights(), other.weights())), name
        assert {"grad_norm", "update_norm", "cosine_sgd"} <= set(run.probe.read()), name
        trained.append(name)
    assert all(refused.values())  # in words
    assert len(trained) > 10 * max(len(refused), len(not_plain))


def test_an_optimizer_that_cannot_be_described_is_said_so_once_and_goes_on() -> None:
    class Odd(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step(closure)
            for group in self.param_groups:
                for param in group["params"]:
                    self.state[param] = {"exp_avg_sq": "squares"}
            self.state["odd"] = 1  # type: ignore[index]

    params = parameters((3, 2), (2,))
    probe = Diagnostics(Odd([{"params": params, "betas": (0.9, 0.99), "eps": 1e-8}], lr=0.1))
    with pytest.warns(UserWarning, match=r"Odd cannot be described \(AttributeError: .*left out") as said:  # noqa: PT031
        for left in (2, 1, 2, 1):
            params[0].grad = torch.ones(3, 2)
            params[1].grad = torch.ones(2) if left == 2 else None  # not in every step
            probe.watch(left)
            probe.optimizer.step()
            found = probe.read() if left == 1 else {}
    assert set(found) == {"grad_norm", "update_norm", "cosine_sgd"}
    assert len(said) == 1


# states of others, and of older versions


@each_of_ours
def test_an_older_state_is_filled_up_and_a_foreign_one_is_refused_before_anything_is_loaded(name: str) -> None:
    one, other = (OURS[name](parameters((4, 3), (3,))) for _ in range(2))
    step(one)
    old = copy.deepcopy(one.state_dict())
    del old["param_groups"][0]["state_dtype"]
    other.load_state_dict(old)
    for optimizer in (one, other):
        step(optimizer, 1)
    pairs = zip(one.state_dict()["state"][0].values(), other.state_dict()["state"][0].values(), strict=True)
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)

    before = copy.deepcopy(other.state_dict())
    for make in (partial(torch.optim.AdamW, lr=0.1), partial(torch.optim.SGD, lr=0.1, momentum=0.9),
                 *(make for key, make in OURS.items() if key != name)):  # fmt: skip
        foreign_one = make(parameters((4, 3), (3,)))
        step(foreign_one)
        with pytest.raises(ValueError, match=f"this is not the state of {name}: "):
            other.load_state_dict(foreign_one.state_dict())
    wider = OURS[name](parameters((4, 4), (3,)))
    step(wider)
    with pytest.raises(ValueError, match=r"of shape \(4, 4\) is not the state of a parameter of shape \(4, 3\)"):
        other.load_state_dict(wider.state_dict())
    bad = copy.deepcopy(before)
    bad["param_groups"][0]["lr"] = float("nan")
    with pytest.raises(ValueError, match="lr = nan is not allowed"):
        other.load_state_dict(bad)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        other.load_state_dict({**before, "param_groups": before["param_groups"] * 2})
    assert str(other.state_dict()) == str(before)


@pytest.mark.parametrize("name", ["RFRMSProp", "RFAdamW"])
def test_the_remedy_against_a_freeze_works_on_a_running_optimizer(name: str) -> None:
    with pytest.warns(UserWarning, match="rounding='stochastic'"):
        optimizer = OURS[name](parameters((4, 3)), state_dtype="bfloat16")
    step(optimizer)
    optimizer.param_groups[0]["rounding"] = "stochastic"
    step(optimizer)
    (state,) = optimizer.state.values()
    assert state["step"] == 1


# hyper-parameters


BETAS = [(0.9, 1.0), (1.0, 0.99), (0.9, 0.99, 0.9), (0.9,), 0.9, ("a", 0.9), (0.9, float("nan"))]


@pytest.mark.parametrize("betas", BETAS, ids=str)
@pytest.mark.parametrize("make", [OURS["Shampoo"], partial(OURS["RFAdamW"], bias_correction=True)],
                         ids=["Shampoo", "RFAdamW corrected"])  # fmt: skip
def test_betas_that_divide_by_zero_are_refused_at_once(make: Make, betas: Any) -> None:
    with pytest.raises(ValueError, match=r"betas(\[\d\])? = .* is not allowed: .*\[0, 1\)"):
        make(parameters((3, 2)), betas=betas)


@each_of_ours
def test_numbers_of_numpy_become_plain_ones(name: str) -> None:
    defaults = {key: value for key, value in OURS[name](parameters((2, 2))).defaults.items() if value is not None}
    given = {
        key: np.asarray(value)[()] if isinstance(value, (bool, int, float)) else value
        for key, value in defaults.items()
    }
    given |= {"betas": np.array(defaults["betas"])} if "betas" in defaults else {}
    assert isinstance(given["lr"], np.float64)
    optimizer = OURS[name](parameters((2, 2)), **given)
    group = optimizer.param_groups[0]
    assert {key: (type(group[key]), group[key]) for key in defaults} == {k: (type(v), v) for k, v in defaults.items()}
    step(optimizer)
    stream = io.BytesIO()
    torch.save(optimizer.state_dict(), stream)
    stream.seek(0)
    optimizer.load_state_dict(torch.load(stream, weights_only=True))
    for bad in (np.float32("nan"), np.array([0.1, 0.2]), torch.tensor([0.1]), 1j):
        with pytest.raises(ValueError, match=r"lr = .* is not allowed: a number in \[0, inf\)"):
            OURS[name](parameters((2, 2)), lr=bad)


def test_a_number_of_numpy_is_plain_in_a_composition() -> None:
    parts = {"matrices": partial(RFRMSProp, batch_size=8), "rest": partial(torch.optim.SGD, lr=0.1)}
    stream = io.BytesIO()
    torch.save(ByShape(parameters((3, 2), (2,)), lr=np.float64(0.1), **parts).state_dict(), stream)
    stream.seek(0)
    assert torch.load(stream, weights_only=True)["param_groups"][0]["lr"] == 0.1


# parameters


@each_of_ours
def test_empty_parameters_and_groups_are_left_alone_and_integers_refused(name: str) -> None:
    (whole, alone), empty = parameters((3, 2), (3, 2)), nn.Parameter(torch.zeros(0, 3))
    optimizer = OURS[name]([{"params": []}, {"params": [empty, whole]}])
    step(optimizer)
    assert empty not in optimizer.state
    twin = OURS[name]([alone])
    with torch.no_grad():
        alone.copy_(parameters((3, 2))[0])
    alone.grad = whole.grad.clone()  # type: ignore[union-attr]
    twin.step()
    assert torch.equal(whole, alone)
    integer = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
    integer.grad = torch.ones(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=rf"an integer parameter \(shape \(2,\)\) is not supported by {name}"):
        OURS[name]([integer]).step()


@pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="this torch shards on no CPU")
@pytest.mark.filterwarnings("ignore")
def test_shards_are_refused_by_methods_of_whole_axes_and_work_in_those_of_coordinates() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

        mesh = dist.init_device_mesh("cpu", (1,))
        wraps = {
            "a parameter of FullyShardedDataParallel": lambda net: FullyShardedDataParallel(
                net, use_orig_params=True, device_id=torch.device("cpu")
            ),
            "a DTensor": lambda net: fully_shard(net, mesh=mesh),
        }
        for words, wrap in wraps.items():
            for name, make in OURS.items():
                net = wrap(nn.Linear(6, 8))
                optimizer = make(net.parameters())
                net(torch.ones(4, 6)).sum().backward()
                if name in MATRIX:
                    with pytest.raises(
                        ValueError, match=rf"{words} .* is not supported by {name}, .* whole parameters"
                    ):
                        optimizer.step()
                else:
                    optimizer.step()
    finally:
        dist.destroy_process_group()


# steps that are clipped, or not made


@each_of_ours
def test_the_largest_root_mean_square_bounds_every_step_and_changes_no_other(name: str) -> None:
    shapes: list[tuple[int, ...]] = [(4, 3), (3,), (), (2, 3, 2)]
    calm = {"beta1": {"betas": (0.0, 0.99)}, "momentum": {"momentum": 0.0}}
    hyper = calm["momentum" if "momentum" in inspect.signature(OURS[name].func).parameters else "beta1"]  # type: ignore[attr-defined]
    free, loose, tight = (
        OURS[name](parameters(*shapes), **hyper, max_update_rms=limit) for limit in (None, 1e9, 0.05)
    )  # as it comes, bound by nothing, and by much
    clipped = 0
    for seed in range(6):
        before = [param.detach().clone() for param in tight.param_groups[0]["params"]]
        for optimizer in (free, loose, tight):
            step(optimizer, seed)
        assert all(map(torch.equal, free.param_groups[0]["params"], loose.param_groups[0]["params"]))
        for param, start in zip(tight.param_groups[0]["params"], before, strict=True):
            rms = ((param - start) / 0.1).square().mean().sqrt().item()
            assert rms < 0.05 * (1 + 1e-4)
            clipped += rms > 0.05 * (1 - 1e-4)
    assert clipped > 6


def test_a_quiet_stretch_moves_no_weight_far_where_steps_are_bounded() -> None:
    moved = []
    for limit in (None, 1.0):
        param = nn.Parameter(torch.zeros(4, 3))
        optimizer = IFShampoo([param], lr=2e-3, batch_size=128, precond_lr=0.1, max_update_rms=limit)
        for size in (*[1e-6] * 300, 1.0):
            param.grad = torch.full((4, 3), size)
            optimizer.step()
        moved.append(param.abs().max().item())
    assert moved[0] > 1
    assert moved[1] < 0.01


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@each_of_ours
def test_a_gradient_that_is_not_finite_can_leave_everything_as_it_was(name: str, value: float) -> None:
    shapes: list[tuple[int, ...]] = [(4, 3), (4, 3), (3,)]
    optimizer, twin = (OURS[name](parameters(*shapes), skip_nonfinite=skip) for skip in (True, False))
    params, others = (one.param_groups[0]["params"] for one in (optimizer, twin))
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        for i, (param, other) in enumerate(zip(params, others, strict=True)):
            param.grad = torch.randn(param.shape, generator=generator)
            other.grad = param.grad.clone()
            if i == 1 and seed in (0, 3):  # the first step of all is one of them
                param.grad.view(-1)[1], other.grad = value, None
        given = params[1].grad.clone()
        optimizer.step()
        twin.step()
        torch.testing.assert_close(params[1].grad, given, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(params, others)
    assert [int(optimizer.state[param]["skipped"]) for param in params] == [0, 2, 0]
    for param, other in zip(params, others, strict=True):
        for key, expected in twin.state[other].items():
            if key != "step" or isinstance(expected, Tensor):
                torch.testing.assert_close(optimizer.state[param][key], expected, msg=f"{name}: {key}")
    fresh = OURS[name](parameters(*shapes), skip_nonfinite=True)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert int(fresh.state[fresh.param_groups[0]["params"][1]]["skipped"]) == 2


@pytest.mark.parametrize("name", ["RFRMSProp", "RFAdamW", "IFShampoo"])
def test_skipping_a_step_waits_for_no_device(name: str) -> None:
    params = [nn.Parameter(torch.empty(shape, device="meta")) for shape in [(4, 3), (3,)]]  # it has no values to read
    optimizer = OURS[name](params, skip_nonfinite=True, max_update_rms=1.0)
    for _ in range(2):
        for param in params:
            param.grad = torch.empty_like(param)
        optimizer.step()


# cost


COMPILED = {
    "RFRMSProp": partial(OURS["RFRMSProp"], weight_decay=0.1, max_update_rms=1.0, skip_nonfinite=True),
    "RFAdamW corrected and rounded": partial(
        OURS["RFAdamW"], weight_decay=0.1, bias_correction=True, state_dtype="bfloat16", rounding="stochastic"
    ),
}


@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED)
def test_numbers_that_schedulers_change_never_compile_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def count(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    real = torch.compile

    def compile_and_count(function: Any, recompile_limit: int, **_: Any) -> Any:
        return real(function, backend=count, fullgraph=True, dynamic=False)

    monkeypatch.setattr(torch, "compile", compile_and_count)
    multi_tensor.compiled.cache_clear()
    try:
        optimizer = make(parameters((3,), (2, 2)), compile=True)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=30)  # momentum, too
        for i in range(20):
            optimizer.param_groups[0].update(weight_decay=0.1 / (1 + i), damping=1e-4 * (1 + i), batch_size=8 + i)
            step(optimizer, i)
            scheduler.step()
        resumed = make(parameters((3,), (2, 2)), compile=True)
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for one in (optimizer, resumed):
            step(one, 20)
    finally:
        multi_tensor.compiled.cache_clear()
    assert len(graphs) == 1
    for left, right in zip(optimizer.param_groups[0]["params"], resumed.state, strict=True):
        assert left.shape == right.shape


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("name", ["RFRMSProp", "RFAdamW"])
def test_a_step_takes_calls_in_proportion_to_its_groups(name: str, rounding: str) -> None:
    counts = []
    for many in (50, 200):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = OURS[name]([{"params": [param]} for param in parameters(*[(2,)] * many)],
                                   state_dtype="bfloat16", rounding=rounding)  # fmt: skip
        step(optimizer)
        calls = [0]

        def watch(frame: Any, event: str, argument: Any, calls: list[int] = calls) -> None:
            calls[0] += event in ("call", "c_call")

        sys.setprofile(watch)
        optimizer.step()
        sys.setprofile(None)
        counts += calls
    assert counts[1] < 4.4 * counts[0]


# a composition


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_a_composition_equals_its_two_optimizers_run_apart_bit_for_bit() -> None:
    muon, adamw = partial(torch.optim.Muon, momentum=0.9), partial(torch.optim.AdamW, lr=0.01)
    shapes = [(4, 3), (3,), (2, 2, 1, 1), (3, 3), ()]
    params, alone = parameters(*shapes), parameters(*shapes)
    optimizer = ByShape(
        [{"params": params[:3]}, {"params": params[3:], "weight_decay": 0.0}], lr=0.02, matrices=muon, rest=adamw
    )
    apart = [muon([{"params": [alone[0]]}, {"params": [alone[3]], "weight_decay": 0.0}], lr=0.02),
             adamw([{"params": alone[1:3]}, {"params": [alone[4]], "weight_decay": 0.0}])]  # fmt: skip
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda i: 0.5**i) for one in (optimizer, *apart)]

    def same_step(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for one, other in zip(params, alone, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        assert optimizer.step(lambda: torch.tensor(3.0)) == 3.0
        for one in (*apart, *schedules):
            one.step()
        assert all(map(torch.equal, params, alone))

    for seed in range(3):
        same_step(seed)
    stream = io.BytesIO()
    torch.save(optimizer.state_dict(), stream)
    stream.seek(0)
    optimizer.load_state_dict(torch.load(stream, weights_only=True))
    assert {param.shape for param in optimizer.state} == {torch.Size(shape) for shape in shapes}
    for seed in range(3, 6):
        same_step(seed)
    optimizer.zero_grad()
    assert all(param.grad is None for param in params)
    with pytest.raises(NotImplementedError, match="make a new one"):
        optimizer.add_param_group({"params": parameters((2, 2))})
    with pytest.raises(ValueError, match="the state has 1 parameter groups, and there are 4"):
        optimizer.load_state_dict(apart[1].state_dict() | {"param_groups": [{"params": []}]})
    for only in (parameters((2, 2)), parameters((2,))):  # a model without a rest, or without matrices
        step(ByShape(only, lr=0.02, matrices=muon, rest=adamw))
