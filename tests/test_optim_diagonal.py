"""RF-RMSProp and RF-AdamW: published trajectories, reference twins, exact properties, and low-precision state."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from rootfree.optim import RFAdamW, RFRMSProp
from rootfree.optim.rounding import stochastic_bfloat16

GOLDEN = sorted(Path(__file__).parent.glob("golden/rf_*.npz"))
CLASSES = {"rf_rmsprop": RFRMSProp, "rf_adamw": RFAdamW}
SHAPES = [(), (3,), (4, 3), (2, 3, 2), (2, 3, 2, 2)]


def parameters(dtype=torch.float64, shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def set_gradients(params, step, scale=1.0):
    """Give the parameters gradients that depend on the step alone."""
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        param.grad = scale * torch.randn(param.shape, generator=generator, dtype=param.dtype)


def run(optimizer_class, steps=20, dtype=torch.float64, scale=1.0, **hyper):
    """The parameters after some steps on the same gradients."""
    params = parameters(dtype)
    optimizer = optimizer_class(params, **hyper)
    for step in range(steps):
        set_gradients(params, step, scale)
        optimizer.step()
    return [param.detach() for param in params]


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def close(left, right, rtol=1e-10):
    return all(torch.allclose(a, b, rtol=rtol, atol=rtol) for a, b in zip(left, right, strict=True))


# Published trajectories


# compiled where the code has a branch that the compiled twins below do not take: each takes seconds to compile
TRAJECTORIES = [(path.stem, False) for path in GOLDEN]
TRAJECTORIES += [("rf_adamw_0", True), ("rf_rmsprop_0", True), ("rf_rmsprop_bf16_state", True)]


@pytest.mark.parametrize(("name", "compile"), TRAJECTORIES,
                         ids=[f"{name}{' compiled' if compile else ''}" for name, compile in TRAJECTORIES])  # fmt: skip
def test_published_trajectory(name, compile):
    run = np.load(GOLDEN[0].with_name(f"{name}.npz"))
    meta = json.loads(str(run["meta"]))
    optimizer_class = CLASSES[meta.pop("method")]
    low_precision = meta["state_dtype"] == "bfloat16"
    meta["init"] = {"one": 1.0, "zero": 0.0}[meta["init"]]
    meta.pop("note", None)
    param = torch.nn.Parameter(torch.tensor(run["param0"], dtype=torch.float32 if low_precision else torch.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the frozen bfloat16 state, which this is about
        optimizer = optimizer_class([param], compile=compile, **meta)
    for grad, expected in zip(run["grads"], run["params"], strict=True):
        param.grad = torch.tensor(grad, dtype=param.dtype)
        optimizer.step()
        error = np.abs(param.detach().double().numpy() - expected).max()
        # Low precision would be allowed 1e-2 of the movement; as long as every rounding agrees it is a float32 epsilon.
        bound = 1e-6 * np.abs(run["params"] - run["param0"]).max() if low_precision else 1e-10 * np.abs(expected).max()
        assert error <= bound


# Reference twins


class RMSPropTwin:
    """RF-RMSProp as its equations, one coordinate at a time."""

    def __init__(self, *, beta2, damping, momentum, weight_decay, batch_size, init, power, bias_correction=False):
        self.hyper = beta2, damping, momentum, weight_decay, batch_size, power
        self.s, self.buffer, self.t, self.bias_correction = init, 0.0, 0, bias_correction

    def step(self, mu, g, lr):
        beta2, damping, momentum, weight_decay, batch_size, power = self.hyper
        self.s = beta2 * self.s + (1 - beta2) * batch_size * g**2
        self.t += 1
        s = self.s / (1 - beta2**self.t) if self.bias_correction else self.s
        self.buffer = momentum * self.buffer + g / (s + damping) ** power + weight_decay * mu
        return mu - lr * self.buffer


class AdamWTwin:
    """RF-AdamW as its equations, one coordinate at a time."""

    def __init__(self, *, betas, damping, weight_decay, batch_size, init, bias_correction):
        self.hyper = betas, damping, weight_decay, batch_size, bias_correction
        self.t, self.m, self.s = 0, 0.0, init

    def step(self, mu, g, lr):
        (beta1, beta2), damping, weight_decay, batch_size, bias_correction = self.hyper
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * g
        self.s = beta2 * self.s + (1 - beta2) * batch_size * g**2
        c1, c2 = (1 - beta1**self.t, 1 - beta2**self.t) if bias_correction else (1, 1)
        return (1 - lr * weight_decay) * mu - lr * self.m / c1 / (self.s / c2 + damping)


RMSPROP = dict(beta2=0.9, damping=1e-3, momentum=0.8, weight_decay=0.1, batch_size=24, init=1.0, power=1.0)
ADAMW = dict(betas=(0.8, 0.9), damping=1e-3, weight_decay=0.1, batch_size=24, init=1.0, bias_correction=True)
TWINS = {
    "root-free": (RFRMSProp, RMSPropTwin, RMSPROP, False),
    "root-free compiled": (RFRMSProp, RMSPropTwin, RMSPROP, True),
    "rooted": (RFRMSProp, RMSPropTwin, {**RMSPROP, "power": 0.5, "init": 0.0}, False),
    "power 0.7": (RFRMSProp, RMSPropTwin, {**RMSPROP, "power": 0.7, "momentum": 0.0, "weight_decay": 0.0}, False),
    "corrected": (RFRMSProp, RMSPropTwin, {**RMSPROP, "init": 0.0, "bias_correction": True}, False),
    "adamw": (RFAdamW, AdamWTwin, {**ADAMW, "bias_correction": False}, False),
    "adamw corrected": (RFAdamW, AdamWTwin, {**ADAMW, "init": 0.0}, False),
    "adamw corrected compiled": (RFAdamW, AdamWTwin, ADAMW, True),
}


@pytest.mark.parametrize("name", TWINS)
def test_equals_the_reference_twin(name):
    optimizer_class, twin_class, hyper, compile = TWINS[name]
    first, second = hyper, {**hyper, "damping": 0.05, "weight_decay": 0.0, "batch_size": 7}  # two parameter groups
    params = parameters()
    groups = [{"params": params[:3]}, {"params": params[3:], **second}]
    optimizer = optimizer_class(groups, lr=0.1, compile=compile, **first)
    twins = [[twin_class(**(first if i < 3 else second)) for _ in range(p.numel())] for i, p in enumerate(params)]
    expected = [param.detach().flatten().tolist() for param in params]
    for step in range(50):
        set_gradients(params, step)
        if step == 7:
            params[1].grad = None
        for group, factor in zip(optimizer.param_groups, (1, 2), strict=True):
            group["lr"] = factor * 0.01 / (1 + step)
        optimizer.step()
        for i, param in enumerate(params):
            if param.grad is not None:
                lr, grad = optimizer.param_groups[i // 3]["lr"], param.grad.flatten().tolist()
                expected[i] = [twin.step(mu, g, lr) for twin, mu, g in zip(twins[i], expected[i], grad, strict=True)]
    for param, values in zip(params, expected, strict=True):
        torch.testing.assert_close(
            param.detach().flatten(), torch.tensor(values, dtype=torch.float64), rtol=1e-10, atol=0
        )


# Exact properties


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("momentum", [0.0, 0.9], ids=["plain", "momentum"])
def test_power_zero_is_sgd_bit_for_bit(momentum, dtype):
    shared = dict(lr=0.1, momentum=momentum, weight_decay=0.01, dtype=dtype)
    assert equal(run(RFRMSProp, power=0.0, batch_size=128, **shared), run(torch.optim.SGD, **shared))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("batch_size", [1, 41, 49, 128])  # 41 and 49: B * (1 / B) is not 1
@pytest.mark.parametrize("power", [0.5, 1.0], ids=["rooted", "root-free"])
def test_second_moment_held_at_one_is_sgd_bit_for_bit(power, batch_size, dtype):
    shared = dict(lr=0.1, momentum=0.9, weight_decay=0.01, dtype=dtype)
    ours = run(RFRMSProp, beta2=1.0, damping=0.0, batch_size=batch_size, power=power, **shared)
    assert equal(ours, run(torch.optim.SGD, **shared))


def test_power_half_is_torch_rmsprop_with_lr_over_root_batch_size():
    ours = run(RFRMSProp, lr=0.1, batch_size=24, beta2=0.9, power=0.5, momentum=0.9, init=0.0, damping=0.0)
    assert close(ours, run(torch.optim.RMSprop, lr=0.1 / 24**0.5, alpha=0.9, eps=0.0, momentum=0.9))


@pytest.mark.parametrize(("power", "factor"), [(0.5, 1.0), (1.0, 1 / 7)], ids=["rooted", "root-free"])
def test_scaled_loss_leaves_the_rooted_step_and_divides_the_root_free_one(power, factor):
    hyper = dict(batch_size=24, beta2=0.9, power=power, momentum=0.9, damping=0.0)
    scaled = run(RFRMSProp, lr=0.1, init=49.0, scale=7.0, **hyper)
    assert close(scaled, run(RFRMSProp, lr=0.1 * factor, init=1.0, **hyper))


@pytest.mark.parametrize(("power", "equivariant"), [(1.0, True), (0.5, False)], ids=["root-free", "rooted"])
def test_only_the_root_free_step_is_equivariant_under_rescaled_coordinates(power, equivariant):
    """With mu = a z the gradient in z is a times that in mu; the trajectories agree if z's, times a, is mu's."""
    a = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    mu = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    z = torch.nn.Parameter(mu.detach() / a)
    hyper = dict(lr=0.01, batch_size=24, beta2=0.9, power=power, momentum=0.9, init=0.0, damping=0.0)
    optimizers = RFRMSProp([mu], **hyper), RFRMSProp([z], **hyper)
    for step in range(20):
        set_gradients([mu], step)
        z.grad = a * mu.grad
        for optimizer in optimizers:
            optimizer.step()
    assert close([a * z], [mu]) == equivariant


def test_frozen_placebo_is_sgd_up_to_rounding():
    shared = dict(lr=0.1, momentum=0.9, weight_decay=5e-4, steps=100)
    placebo = run(RFRMSProp, beta2=1 - 1e-6, damping=0.0, batch_size=128, **shared)
    for ours, sgd, start in zip(placebo, run(torch.optim.SGD, **shared), parameters(), strict=True):
        assert (ours - sgd).abs().max() < 0.02 * (sgd - start).abs().max()


def test_tensor_learning_rate_equals_a_number():
    for optimizer_class in CLASSES.values():
        assert close(
            run(optimizer_class, lr=torch.tensor(0.1, dtype=torch.float64), batch_size=8, weight_decay=0.1),
            run(optimizer_class, lr=0.1, batch_size=8, weight_decay=0.1),
        )


# Cost


def test_state_is_no_larger_than_needed():
    def state(optimizer_class, **hyper):
        param = torch.nn.Parameter(torch.zeros(1000))
        param.grad = torch.ones(1000)
        optimizer = optimizer_class([param], lr=0.1, **hyper)
        optimizer.step()
        return optimizer.state[param]

    def size(state):
        return sum(value.nbytes for value in state.values() if value.ndim)

    adamw = size(state(torch.optim.AdamW))
    assert size(state(RFRMSProp, batch_size=8)) == size(state(RFAdamW, batch_size=8)) == adamw
    assert size(state(RFRMSProp, batch_size=8, beta2=0.9, state_dtype="bfloat16")) == adamw / 2
    assert size(state(RFAdamW, batch_size=8, betas=(0.9, 0.9), state_dtype=torch.bfloat16)) == adamw / 2
    assert set(state(RFRMSProp, batch_size=8, momentum=0.0)) == {"second_moment"}


# Low-precision state


def after_zero_gradients(steps, **hyper):
    """The second moment of 4096 coordinates that see no gradient."""
    param = torch.nn.Parameter(torch.zeros(4096))
    param.grad = torch.zeros(4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        optimizer = RFRMSProp([param], lr=0.1, batch_size=128, momentum=0.0, state_dtype="bfloat16", **hyper)
    for _ in range(steps):
        optimizer.step()
    return optimizer.state[param]["second_moment"].float()


@pytest.mark.parametrize(("rate", "moves"), [(2**-9 * 0.99, False), (2**-8 * 1.01, True)], ids=["below", "above"])
def test_bfloat16_second_moment_freezes_below_2_to_the_minus_9(rate, moves):
    for init in (1.0, 1.0 / 3, 1.99):
        start = torch.tensor(init).bfloat16().float()
        assert (after_zero_gradients(100, beta2=1 - rate, init=init) < start).all() == moves


def test_stochastic_second_moment_decays_as_in_exact_arithmetic():
    second_moment = after_zero_gradients(700, beta2=0.999, rounding="stochastic")
    assert second_moment.std() > 0
    assert second_moment.mean().item() == pytest.approx(0.999**700, rel=5e-3)  # standard error 1e-3


def test_stochastic_rounding_is_unbiased_over_steps_elements_and_seeds():
    fraction = 0.3  # of the way between 1 and its upper neighbour 1 + 2^-7
    value = torch.full((512,), 1 + fraction * 2**-7)
    up = torch.stack(
        [
            torch.stack([stochastic_bfloat16(value, seed, torch.tensor(step)) > 1 for step in range(64)])
            for seed in range(16)
        ]
    ).double()  # (seed, step, element)
    for axis in range(3):
        shares = up.mean([other for other in range(3) if other != axis])
        n = up.numel() / len(shares)
        deviations = (shares - fraction) / (fraction * (1 - fraction) / n) ** 0.5
        assert deviations.abs().max() < 5
        assert 0.5 < deviations.std() < 1.5  # the spread of independent bits: neither a pattern nor one bit for all
    centred = up - fraction
    for axis in range(3):  # neighbours along each axis are uncorrelated
        product = (centred * centred.roll(1, axis)).mean().item()
        assert abs(product) < 5 * fraction * (1 - fraction) / up.numel() ** 0.5


def test_stochastic_rounding_keeps_bfloat16_numbers_and_non_finite_values():
    exact = torch.tensor([0.0, 1.0, -3.5, 2.0**-130, torch.inf, -torch.inf])
    assert torch.equal(stochastic_bfloat16(exact, 0, torch.tensor(1)).float(), exact)
    nan = torch.tensor([0x7FFFFFFF, 0x7FC00000, -1], dtype=torch.int32).view(torch.float32)
    assert stochastic_bfloat16(nan, 0, torch.tensor(1)).isnan().all()


@pytest.mark.parametrize("optimizer_class", CLASSES.values(), ids=CLASSES)
def test_compiled_stochastic_rounding_draws_the_bits_of_eager(optimizer_class):
    states = []
    for compile in (False, True):
        params = parameters(torch.float32, [(3,), (40, 30)])
        hyper = dict(lr=0.1, batch_size=100, state_dtype="bfloat16", rounding="stochastic", compile=compile)
        optimizer = optimizer_class(params, **hyper)
        for step in range(20):
            set_gradients(params, step)
            optimizer.step()
        states.append([value for param in params for value in optimizer.state[param].values()])
    assert equal(*states)


# Warnings and errors


def test_a_setting_that_freezes_warns_once_and_names_the_remedy():
    params = parameters(torch.float32)
    groups = [{"params": [param]} for param in params]
    with pytest.warns(UserWarning, match=r"beta2 = 0\.999 .*bfloat16.*rounding='stochastic'") as caught:  # noqa: PT031
        optimizer = RFRMSProp(groups[:-1], lr=0.1, batch_size=8, beta2=0.999, state_dtype="bfloat16")
        optimizer.add_param_group(groups[-1])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=r"beta2 = 0\.9999"):
        RFAdamW(params, lr=0.1, batch_size=8, betas=(0.9, 0.9999), state_dtype=torch.bfloat16)
    with pytest.warns(UserWarning, match="bfloat16"):
        RFRMSProp(parameters(torch.bfloat16), lr=0.1, batch_size=8, beta2=0.999)


def test_settings_that_do_not_freeze_do_not_warn():
    params = parameters(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for hyper in (
            dict(beta2=0.999999),
            dict(beta2=0.99, state_dtype="bfloat16"),
            dict(beta2=1.0, state_dtype="bfloat16"),  # asked for
            dict(beta2=0.9999, state_dtype="bfloat16", rounding="stochastic"),
        ):
            RFRMSProp(params, lr=0.1, batch_size=8, **hyper)


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        (dict(lr=-0.1), r"lr = -0\.1 .*\[0, inf\)"),
        (dict(lr=float("nan")), "lr = nan"),
        (dict(lr="0.1"), "lr = '0.1'"),
        (dict(batch_size=0), r"batch_size = 0 .*\[1, inf\)"),
        (dict(batch_size=None), "batch_size = None"),
        (dict(beta2=1.1), r"beta2 = 1\.1 .*\[0, 1\]"),
        (dict(damping=-1e-4), r"damping = -0\.0001 .*\[0, inf\)"),
        (dict(momentum=1.5), r"momentum = 1\.5 .*\[0, 1\]"),
        (dict(weight_decay=float("inf")), "weight_decay = inf"),
        (dict(init=-1.0), r"init = -1\.0"),
        (dict(power=-1.0), r"power = -1\.0"),
        (dict(beta2=1.0, bias_correction=True), r"beta2 = 1\.0 .*\[0, 1\)"),
        (dict(max_update_rms=0), r"max_update_rms = 0 .*\(0, inf\)"),
        (dict(state_dtype="int8"), "state_dtype = 'int8' .*'bfloat16'"),
        (dict(rounding="up"), "rounding = 'up' .*'nearest', 'stochastic'"),
        (dict(rounding="stochastic"), "rounding = 'stochastic' .*state_dtype = None: it needs 'bfloat16'"),
        (dict(compile="no"), "compile = 'no'"),
    ],
    ids=lambda value: ", ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_value_out_of_range_is_refused_and_named(hyper, message):
    params = parameters()
    with pytest.raises(ValueError, match=message):
        RFRMSProp(params, **{"lr": 0.1, "batch_size": 8, **hyper})
    optimizer = RFRMSProp(params[:1], lr=0.1, batch_size=8)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": params[1:], **hyper})


@pytest.mark.parametrize("betas", [(0.9, 1.1), (-0.1, 0.9), (0.9,), 0.9], ids=str)
def test_bad_betas_are_refused(betas):
    with pytest.raises(ValueError, match="betas"):
        RFAdamW(parameters(), lr=0.1, batch_size=8, betas=betas)
