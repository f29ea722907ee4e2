"""The matrix methods against the published trajectories, the equations in float64, and the theorems they rest on."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rootfree.optim import IFShampoo, RFShampoo, Shampoo
from rootfree.optim.kronecker import add_gram_, inner

GOLDEN = sorted((Path(__file__).parent / "golden").glob("if_shampoo_*.npz"))
METHODS = {
    "if_shampoo": (IFShampoo, {"lr": 0.01, "batch_size": 8, "precond_lr": 0.1}),
    "rf_shampoo": (RFShampoo, {"lr": 0.01, "batch_size": 8, "beta2": 0.9}),
    "shampoo": (Shampoo, {"lr": 0.01}),
    "shampoo_grafted": (Shampoo, {"lr": 0.01, "grafting": "adam"}),
}


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_if_shampoo_equals_the_published_trajectories(path: Path) -> None:
    data = np.load(path)
    hyper = json.loads(str(data["meta"]))
    del hyper["method"]
    param = nn.Parameter(torch.tensor(data["param0"]))
    optimizer = IFShampoo([param], **hyper)
    for grad, expected in zip(data["grads"], data["params"], strict=True):
        param.grad = torch.tensor(grad)
        optimizer.step()
        torch.testing.assert_close(param.detach(), torch.tensor(expected), rtol=1e-8, atol=1e-12)


def test_if_shampoo_equals_sirfshampoo_on_a_network() -> None:
    sirfshampoo = pytest.importorskip("sirfshampoo")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)).double()
    twin = copy.deepcopy(net)
    ours = IFShampoo(
        net.parameters(), lr=0.01, precond_lr=0.2, damping=1e-3, weight_decay=0.01, batch_size=16, update_every=2
    )
    theirs = sirfshampoo.SIRFShampoo(twin, lr=0.01, beta2=0.2, lam=1e-3, kappa=0.01, batch_size=16, T=2)
    for step in range(20):
        inputs, targets = randn(16, 2, 5, 5, seed=step), torch.arange(16) % 5
        for model, optimizer in ((net, ours), (twin, theirs)):
            model.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    for param, expected in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-9, atol=1e-12)


def test_equals_the_shampoo_of_pytorch_optimizer_where_the_equations_coincide() -> None:
    """RFShampoo does on a column, where there is no other axis to whiten along; Shampoo from full-rank factors on."""
    peers = pytest.importorskip("pytorch_optimizer")
    shared = dict(start_preconditioning_step=1, preconditioning_compute_steps=1, shape_interpretation=False,
                  graft_type=0, nesterov=False, use_svd=True)  # fmt: skip
    pairs = [
        (
            (5, 1),
            lambda params: RFShampoo(params, lr=0.1, batch_size=1, beta2=0.9, damping=0.0, weight_decay=0.02),
            dict(betas=(0.9, 0.9), weight_decay=0.02, inverse_exponent_override=1, pre_conditioner_type=1,
                 matrix_eps=1.0),
        ),
        (
            (4, 4),
            lambda params: Shampoo(params, lr=0.1, betas=(0.0, 0.9), eps=1e-14, weight_decay=0.02),
            dict(betas=(0.0, 0.9), weight_decay=0.02, decoupled_weight_decay=True, matrix_eps=0.0),
        ),
    ]  # fmt: skip
    for shape, ours, theirs in pairs:
        params = [nn.Parameter(randn(*shape)) for _ in range(2)]
        optimizers = ours(params[:1]), peers.ScalableShampoo(params[1:], lr=0.1, **shared, **theirs)
        for step in range(20):
            for param, optimizer in zip(params, optimizers, strict=True):
                param.grad = randn(*shape, seed=step)
                optimizer.step()
            torch.testing.assert_close(*params, rtol=1e-8, atol=1e-10)


# Reference twins: the equations of the module docstrings, one tensor, one axis after the other.


def on_axis(matrix: Tensor, tensor: Tensor, axis: int) -> Tensor:
    return torch.tensordot(matrix, tensor, dims=([1], [axis])).movedim(0, axis)


def on_axes(matrices: list[Tensor], tensor: Tensor, skip: int | None = None) -> Tensor:
    for axis, matrix in enumerate(matrices):
        tensor = tensor if axis == skip else on_axis(matrix, tensor, axis)
    return tensor


def unfold(tensor: Tensor, axis: int) -> Tensor:
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


def if_shampoo_twin(w: Tensor, grads: list[Tensor], lrs: list[float], *, precond_lr, damping, momentum,
                    precond_momentum, weight_decay, batch_size, update_every) -> Tensor:  # fmt: skip
    dims = [d for d in w.shape if d > 1] or [1]
    K, m = [torch.eye(d).double() for d in dims], [torch.zeros(d, d).double() for d in dims]
    w, buf = w.clone(), torch.zeros_like(w)
    for t, (g, lr) in enumerate(zip(grads, lrs, strict=True)):
        G = g.reshape(dims)
        if t % update_every == 0:
            white = on_axes([k.T for k in K], G * math.sqrt(batch_size))
            tr = [k.square().sum() / len(k) for k in K]
            for n, d in enumerate(dims):
                H = unfold(white, n) @ unfold(white, n).T * d / G.numel()
                damp = damping * math.prod(tr) / tr[n] * K[n].T @ K[n]
                m[n] = precond_momentum * m[n] + (1 - precond_momentum) / 2 * (H + damp - torch.eye(d))
            K = [k - precond_lr * k @ x / max(1, x.norm()) for k, x in zip(K, m, strict=True)]
        buf = momentum * buf + on_axes([k @ k.T for k in K], G).reshape(w.shape) + weight_decay * w
        w = w - lr * buf
    return w


def rf_shampoo_twin(w: Tensor, grads: list[Tensor], lrs: list[float], *, beta2, damping, momentum, weight_decay,
                    batch_size, update_every, power=1.0) -> Tensor:  # fmt: skip
    dims = [d for d in w.shape if d > 1] or [1]
    S = [torch.eye(d).double() for d in dims]
    w, buf = w.clone(), torch.zeros_like(w)
    for t, (g, lr) in enumerate(zip(grads, lrs, strict=True)):
        G = g.reshape(dims)
        if t % update_every == 0:
            inverses = [s.inverse() for s in S]
            tr = [i.trace() / len(i) for i in inverses]
            for n, d in enumerate(dims):
                U = batch_size * d / G.numel() * unfold(on_axes(inverses, G, skip=n), n) @ unfold(G, n).T
                S[n] = beta2 * S[n] + (1 - beta2) * (U + damping * math.prod(tr) / tr[n] * torch.eye(d))
        spectra = [torch.linalg.svd(s) for s in S]
        powers = [u @ torch.diag(values**-power) @ u.T for u, values, _ in spectra]
        buf = momentum * buf + on_axes(powers, G).reshape(w.shape) + weight_decay * w
        w = w - lr * buf
    return w


def shampoo_twin(w: Tensor, grads: list[Tensor], lrs: list[float], *, betas, eps, weight_decay, update_every,
                 grafting, bias_correction=False) -> Tensor:  # fmt: skip
    dims, (b1, b2) = list(w.shape) or [1], betas
    w, M, v, L = w.clone(), torch.zeros(dims).double(), torch.zeros(dims).double(), [0.0] * len(dims)
    for t, (g, lr) in enumerate(zip(grads, lrs, strict=True)):
        G = g.reshape(dims)
        L = [b2 * x + (1 - b2) * unfold(G, n) @ unfold(G, n).T for n, x in enumerate(L)]
        if t % update_every == 0:
            decompositions = [torch.linalg.svd(x / (1 - b2 ** (t + 1) if bias_correction else 1)) for x in L]
            roots = [u @ torch.diag((s + eps) ** (-0.5 / len(dims))) @ u.T for u, s, _ in decompositions]
        M, v = b1 * M + (1 - b1) * G, b2 * v + (1 - b2) * G**2
        step = on_axes(roots, M) / (1 - b1 ** (t + 1) if bias_correction else 1)
        if grafting:
            adam = M / (1 - b1 ** (t + 1)) / ((v / (1 - b2 ** (t + 1))).sqrt() + 1e-8)
            step = step * adam.norm() / step.norm()
        w = (1 - lr * weight_decay) * w - lr * step.reshape(w.shape)
    return w


SHAPES = [(), (1,), (5,), (4, 3), (4, 3), (4, 3), (1, 5), (3, 4, 2), (2, 3, 3, 2), (4, 3, 2, 2)]
TWINS: dict[str, tuple[Callable[..., Tensor], type, dict[str, Any], dict[str, Any]]] = {
    "if_shampoo": (
        if_shampoo_twin,
        IFShampoo,
        {"precond_lr": 0.15, "damping": 1e-2, "momentum": 0.8, "precond_momentum": 0.6, "weight_decay": 0.02,
         "batch_size": 4, "update_every": 2},
        {"precond_lr": 0.05, "momentum": 0.0, "precond_momentum": 0.0, "weight_decay": 0.0, "update_every": 1},
    ),
    "rf_shampoo": (
        rf_shampoo_twin,
        RFShampoo,
        {"beta2": 0.9, "damping": 1e-2, "momentum": 0.8, "weight_decay": 0.02, "batch_size": 4, "update_every": 2},
        {"beta2": 0.95, "momentum": 0.0, "weight_decay": 0.0, "update_every": 3},
    ),
    "kl_shampoo": (
        rf_shampoo_twin,
        RFShampoo,
        {"beta2": 0.9, "damping": 1e-2, "momentum": 0.8, "weight_decay": 0.02, "batch_size": 4, "update_every": 2,
         "power": 0.5},
        {"power": 0.25},
    ),
    "shampoo_corrected": (
        shampoo_twin,
        Shampoo,
        {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1, "update_every": 3, "grafting": None,
         "bias_correction": True},
        {"grafting": "adam"},
    ),
    "shampoo": (
        shampoo_twin,
        Shampoo,
        {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1, "update_every": 3, "grafting": None},
        {"betas": (0.0, 0.9), "weight_decay": 0.0, "update_every": 1},
    ),
    "shampoo_grafted": (
        shampoo_twin,
        Shampoo,
        {"betas": (0.9, 0.95), "eps": 1e-4, "weight_decay": 0.1, "update_every": 2, "grafting": "adam"},
        {"betas": (0.5, 0.9), "grafting": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TWINS)
def test_equals_the_equations_over_50_steps(name: str) -> None:
    twin, cls, first, second = TWINS[name]
    params = [nn.Parameter(randn(*shape, seed=i)) for i, shape in enumerate(SHAPES)]
    starts = [param.detach().clone() for param in params]
    optimizer = cls([{"params": params[:-1]}, {"params": params[-1:], **second}], lr=0.01, **first)
    lrs: list[float] = []
    history: list[list[Tensor]] = [[] for _ in params]
    rates: list[list[float]] = [[] for _ in params]
    for step in range(50):
        lrs.append(0.01 / (1 + step % 7))
        for group in optimizer.param_groups:
            group["lr"] = lrs[-1]
        for i, param in enumerate(params):
            missing = i == 4 and step in (7, 8, 9, 20)  # the middle one of three equal shapes
            param.grad = None if missing else randn(*param.shape, seed=1000 * step + i)
            if not missing:
                history[i].append(param.grad.clone())
                rates[i].append(lrs[-1])
        optimizer.step()
        if param.grad is not None:
            assert all(torch.equal(p.grad, h[-1]) for p, h in zip(params, history, strict=True) if p.grad is not None)
    for i, (param, start) in enumerate(zip(params, starts, strict=True)):
        hyper = first | second if i == len(params) - 1 else first
        expected = twin(start, history[i], rates[i], **hyper)
        torch.testing.assert_close(param.detach(), expected, rtol=1e-9, atol=1e-11, msg=lambda m, i=i: f"{i}: {m}")


def run_apart(name: str, params: list[nn.Parameter], pieces: list[list[Tensor]], **hyper: Any) -> None:
    """Train parameters, and pieces of copies of them as parameters of their own: they must stay together."""
    cls, settings = METHODS[name]
    optimizer = cls(params, update_every=2, **settings, **hyper)
    apart = [[nn.Parameter(piece.detach().clone()) for piece in cut] for cut in pieces]
    alone = cls([piece for cut in apart for piece in cut], update_every=2, **settings)
    for step in range(5):
        if step == 3:  # a state with blocks goes through a state dict
            again = cls(params, update_every=2, **settings, **hyper)
            again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            optimizer = again
        for i, (param, cut, views) in enumerate(zip(params, apart, pieces, strict=True)):
            param.grad = randn(*param.shape, seed=10 * step + i)
            with torch.no_grad():
                for piece, view in zip(cut, views, strict=True):
                    start = view.storage_offset()
                    piece.grad = param.grad.as_strided(view.shape, view.stride(), start).clone()
        optimizer.step()
        alone.step()
        for cut, views in zip(apart, pieces, strict=True):
            for piece, view in zip(cut, views, strict=True):
                torch.testing.assert_close(view.detach(), piece.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_a_parameter_with_long_axes_is_many_with_short_ones(name: str) -> None:
    params = [nn.Parameter(randn(*shape, seed=i)) for i, shape in enumerate([(7, 4), (6, 3, 2, 2), (5,), (4, 4)])]
    rows = [(2, 2, 3), (3, 3), (2, 3), (4,)]  # of at most 3, as equal as can be; the last is cut nowhere
    columns = [(2, 2), (3,), None, (4,)]
    pieces = [
        [piece for part in param.split(rows[i]) for piece in (part.split(columns[i], 1) if columns[i] else [part])]
        for i, param in enumerate(params)
    ]
    run_apart(name, params[:3], pieces[:3], max_dim=3)
    run_apart(name, params[3:], pieces[3:], max_dim=4)


@pytest.mark.parametrize("name", ["if_shampoo", "rf_shampoo", "shampoo"])  # grafting gives a vector one length
def test_a_vector_of_coordinates_is_many_scalars(name: str) -> None:
    params = [nn.Parameter(randn(*shape, seed=i)) for i, shape in enumerate([(5,), (5,), (4, 3), (2,)])]
    pieces = [list(param.unbind()) if param.ndim == 1 else [param] for param in params]
    run_apart(name, params, pieces, max_dim=4, precondition_1d=False)


@pytest.mark.parametrize("name", METHODS)
def test_the_state_of_an_embedding_and_of_a_long_bias_is_small_and_foreseen(name: str) -> None:
    cls, hyper = METHODS[name]
    params = [nn.Parameter(randn(3072, dtype=torch.float32)), nn.Parameter(randn(300, 20, dtype=torch.float32))]
    optimizer = cls(params, precondition_1d=False, max_dim=128, **hyper)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    found = sum(v.nbytes for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor))
    like_params = 1 + ("grafting" in hyper)
    assert found == 4 * (3072 * (2 + like_params) + 300 * 20 * like_params + 2 * 3 * (100**2 + 20**2))
    net = nn.Module()
    net.weight, net.bias = reversed(params)
    for of in (net, [(3072,), (300, 20)]):
        assert cls.state_bytes(of, precondition_1d=False, max_dim=128, **hyper) == found
    ends = [50_000 * i // 49 for i in range(50)]
    matrices = 2 * sum((end - start) ** 2 + 512**2 for start, end in pairwise(ends))
    assert cls.state_bytes([(50_000, 512)], **hyper) == 4 * (matrices + like_params * 50_000 * 512)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["max_dim"] = 200
    with pytest.raises(ValueError, match=r"factor_0_0 of shape .* is not the state of .* with max_dim = 200"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first axis", "middle axis", "last axis"])
def test_gram_by_blocks_equals_the_whole_product(place: int) -> None:
    batch = randn(2, *(301 if axis == place else 5 for axis in range(3)))
    products = randn(2, 301, 301, seed=1)
    products += products.mT.clone()
    expected = 0.3 * products + 0.7 * inner(batch, batch, place)
    add_gram_(products, batch, place, beta=0.3, alpha=0.7)
    torch.testing.assert_close(products, expected, rtol=1e-12, atol=1e-12)


def test_if_shampoo_finds_the_inverse_of_the_kl_optimal_factors() -> None:
    grads, batch_size, damping = [randn(4, 3, seed=i) for i in range(3)], 2, 0.1
    S = [torch.eye(4).double(), torch.eye(3).double()]
    for _ in range(200):  # alternate minimisation of the KL divergence
        for n in (0, 1):
            other = S[1 - n].inverse()
            U = sum(unfold(g, n) @ other @ unfold(g, n).T for g in grads) / len(grads)
            S[n] = (batch_size * U + damping * other.trace() * torch.eye(len(S[n]))) / len(other)
    param = nn.Parameter(torch.zeros(4, 3).double())
    optimizer = IFShampoo([param], lr=0.0, precond_lr=0.1, damping=damping, batch_size=batch_size)
    for step in range(2400):
        optimizer.param_groups[0]["precond_lr"] = 0.05 if step < 600 else 1e-3
        param.grad = grads[step % 3]
        optimizer.step()
    C, K = optimizer.state[param]["factor_0"], optimizer.state[param]["factor_1"]
    learned, optimal = torch.kron(C @ C.T, K @ K.T), torch.kron(S[0].inverse(), S[1].inverse())  # scales trade places
    assert (learned - optimal).norm() < 0.01 * optimal.norm()


def twin_gap(step: float, shape: tuple[int, ...], size: float) -> float:
    """How far the steps of IFShampoo and RFShampoo lie apart after one update of size `step` from equal factors."""
    moved = []
    for cls, hyper in ((IFShampoo, {"precond_lr": step, "precond_momentum": 0.0}), (RFShampoo, {"beta2": 1 - step})):
        param = nn.Parameter(torch.zeros(shape).double())
        optimizer = cls([param], lr=1.0, batch_size=4, damping=0.1, momentum=0.0, **hyper)
        for axis, dim in enumerate(shape):
            K = torch.eye(dim).double() + 0.1 * randn(dim, dim, seed=axis)
            S = (K @ K.T).inverse()
            factors = {"factor": K} if cls is IFShampoo else {"factor": S, "inverse": S.inverse(), "failures": 0}
            optimizer.state[param] |= {k if k == "failures" else f"{k}_{axis}": v for k, v in factors.items()}
        optimizer.state[param]["step"] = 0
        param.grad = size * randn(*shape, seed=9)
        optimizer.step()
        moved.append(param.detach())
    return (moved[0] - moved[1]).norm().item()


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 2)], ids=str)
@pytest.mark.parametrize(("size", "slope"), [(0.3, 2), (3.0, 1)], ids=["unclipped", "clipped"])
def test_preconditioner_invariance(shape: tuple[int, ...], size: float, slope: int) -> None:
    gaps = [twin_gap(step, shape, size) for step in (4e-4, 2e-4, 1e-4)]
    for large, small in pairwise(gaps):
        assert math.log2(large / small) == pytest.approx(slope, abs=0.05)


@pytest.mark.parametrize("shape", [(6,), (5, 4), (3, 4, 2), (2, 3, 2, 2)], ids=str)
def test_shampoos_root_is_the_dense_inverse_root(shape: tuple[int, ...]) -> None:
    param = nn.Parameter(randn(*shape))
    optimizer = Shampoo([param], lr=0.01, eps=1e-3)
    for step in range(5):
        param.grad = randn(*shape, seed=step)
        optimizer.step()
    for axis, dim in enumerate(shape):
        L, root = optimizer.state[param][f"factor_{axis}"], optimizer.state[param][f"root_{axis}"]
        eye = torch.eye(dim).double()
        torch.testing.assert_close(torch.linalg.matrix_power(root, 2 * len(shape)) @ (L + 1e-3 * eye), eye)


def test_grafted_steps_have_the_length_of_adams() -> None:
    ours, theirs = nn.Parameter(randn(4, 3)), nn.Parameter(randn(4, 3))
    shampoo = Shampoo([ours], lr=0.1, betas=(0.9, 0.99), grafting="adam")
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99))
    for step in range(10):
        lengths = []
        for param, optimizer in ((ours, shampoo), (theirs, adam)):
            before = param.detach().clone()
            param.grad = randn(4, 3, seed=step)
            optimizer.step()
            lengths.append((param.detach() - before).norm())
        torch.testing.assert_close(*lengths)


@pytest.mark.parametrize(
    ("cls", "solver", "target"), [(Shampoo, "eigh", "root_0"), (RFShampoo, "cholesky", "inverse_0")]
)
def test_a_failed_decomposition_keeps_the_last_good_one_and_is_counted(
    cls: type, solver: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = nn.Parameter(randn(3, dtype=torch.float32)), nn.Parameter(randn(3, dtype=torch.float32))
    hyper = {"batch_size": 1} if cls is RFShampoo else {}
    optimizer = cls([good, bad], lr=0.01, **hyper)
    original, broken = getattr(torch.linalg, solver), [torch.float32]

    def step() -> None:
        for i, param in enumerate((good, bad)):
            param.grad = (1 + 99 * i) * torch.ones(3)
        optimizer.step()

    def fails_on_large(matrices: Tensor) -> Any:
        if matrices.abs().max() > 50 and matrices.dtype in broken:
            raise torch.linalg.LinAlgError("no convergence")
        return original(matrices)

    monkeypatch.setattr(torch.linalg, solver, fails_on_large)
    step()  # fails in float32, succeeds in float64
    assert [optimizer.state[p]["failures"] for p in (good, bad)] == [0, 0]
    kept = [optimizer.state[p][target].clone() for p in (good, bad)]
    assert not torch.equal(kept[1], torch.eye(3))
    broken.append(torch.float64)
    step()
    assert [optimizer.state[p]["failures"] for p in (good, bad)] == [0, 1]
    assert torch.equal(optimizer.state[bad][target], kept[1])
    assert not torch.equal(optimizer.state[good][target], kept[0])
    assert bad.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_a_nan_gradient_shows(name: str) -> None:
    cls, hyper = METHODS[name]
    params = [nn.Parameter(randn(3, 2)) for _ in range(2)]
    optimizer = cls(params, **hyper)
    params[0].grad, params[1].grad = torch.full((3, 2), torch.nan).double(), randn(3, 2)
    optimizer.step()
    assert params[0].isnan().all()
    assert params[1].isfinite().all()
    if cls is not IFShampoo:
        assert [optimizer.state[p]["failures"] for p in params] == [2, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_if_shampoo_trains_with_everything_in_bfloat16(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).to(dtype)
    inputs, targets = randn(48, 1, 6, 6, dtype=dtype), torch.arange(48) % 3
    optimizer = IFShampoo(net.parameters(), lr=2e-3, batch_size=48, precond_lr=0.2, state_dtype="bfloat16")
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(inputs).float(), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    tensors = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    assert all(tensor.isfinite().all() for tensor in tensors)
    assert losses[-1] < 0.5 * losses[0]


def test_if_shampoo_never_waits_for_the_device() -> None:
    params = [nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]  # a value of theirs cannot be read
    optimizer = IFShampoo(params, lr=torch.tensor(0.1), batch_size=8, weight_decay=0.1)
    for _ in range(2):
        for param in params:
            param.grad = torch.empty_like(param)
        optimizer.step()


@pytest.mark.parametrize("state_dtype", [None, "bfloat16"], ids=["the parameter's dtype", "bfloat16"])
@pytest.mark.parametrize("name", METHODS)
def test_state_survives_saving_and_copying_bit_for_bit(name: str, state_dtype: str | None, tmp_path: Path) -> None:
    cls, hyper = METHODS[name]

    def build(start: list[Tensor]) -> tuple[list[nn.Parameter], Any]:
        params = [nn.Parameter(tensor.clone()) for tensor in start]
        return params, cls(params, state_dtype=state_dtype, update_every=2, **hyper)

    def run(params: list[nn.Parameter], optimizer: Any, steps: Iterator[int] | range) -> list[Tensor]:
        for step in steps:
            for i, param in enumerate(params):
                skipped = step == 5 and i == 1
                param.grad = None if skipped else randn(*param.shape, seed=10 * step + i, dtype=param.dtype)
            optimizer.step()
        return [param.detach().clone() for param in params]

    start = [randn(4, 3, seed=i, dtype=torch.float32) for i in range(3)]
    params, optimizer = build(start)
    middle = run(params, optimizer, range(3))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    copied_params, copied = copy.deepcopy((params, optimizer))
    loaded_params, loaded = build(middle)
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for state, other in zip(optimizer.state.values(), loaded.state.values(), strict=True):
        for key, value in state.items():
            assert type(value) is type(other[key])
            if isinstance(value, Tensor):
                assert value.dtype == other[key].dtype
                assert torch.equal(value, other[key])

    expected = run(params, optimizer, range(3, 8))
    for others, other in ((copied_params, copied), (loaded_params, loaded)):
        assert all(map(torch.equal, run(others, other, range(3, 8)), expected))


BAD = {
    "lr": -1.0,
    "update_every": 0,
    "max_dim": 0,
    "max_update_rms": 0.0,
    "skip_nonfinite": 1.5,
    "precondition_1d": "no",
    "weight_decay": math.nan,
    "state_dtype": "int8",
}
BAD_OF = {
    IFShampoo: {"batch_size": 0, "precond_lr": -0.1, "damping": 0.0, "momentum": 1.5, "precond_momentum": -0.1},
    RFShampoo: {"batch_size": 0, "beta2": 1.1, "damping": -1.0, "momentum": 1.5, "power": -1.0},
    Shampoo: {"betas": (0.9, 1.1), "eps": 0.0, "grafting": "sgd"},
}


@pytest.mark.parametrize(
    ("cls", "name", "value"), [(cls, *item) for cls, bad in BAD_OF.items() for item in (BAD | bad).items()]
)
def test_bad_values_are_refused_by_name(cls: type, name: str, value: Any) -> None:
    good = {"lr": 0.1} if cls is Shampoo else {"lr": 0.1, "batch_size": 8}
    with pytest.raises(ValueError, match=name):
        cls([nn.Parameter(torch.zeros(2))], **{**good, name: value})
    with pytest.raises(ValueError, match=name):
        cls([{"params": [nn.Parameter(torch.zeros(2))], name: value}], **good)


@pytest.mark.parametrize(("cls", "equivariant"), [(RFShampoo, True), (Shampoo, False)])
def test_only_the_root_free_full_matrix_step_is_equivariant_under_affine_maps(cls: type, equivariant: bool) -> None:
    """Where mu = A z + b: on a vector S is the full matrix, and A^T S A in the coordinates of z."""
    rng = torch.Generator().manual_seed(0)
    curvature, a, b = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((4, 4), (4, 4), (4,)))
    curvature, a = curvature @ curvature.T + torch.eye(4), a + 3 * torch.eye(4)
    settings = (
        {"beta2": 0.9, "damping": 0.0, "momentum": 0.0, "batch_size": 1}
        if cls is RFShampoo
        else {"betas": (0.0, 0.9), "eps": 1e-12}
    )
    z = torch.nn.Parameter(torch.randn(4, generator=rng, dtype=torch.float64))
    mu = torch.nn.Parameter(a @ z.detach() + b)
    optimizers = {p: cls([p], lr=0.0, weight_decay=0.0, **settings) for p in (mu, z)}

    def step() -> None:
        for p, optimizer in optimizers.items():
            optimizer.zero_grad()
            place = p if p is mu else a @ p + b
            (0.5 * place @ curvature @ place + place.sin().sum()).backward()
            optimizer.step()

    step()  # lr = 0: makes the state, of which z's is then mu's, transformed
    optimizers[z].state[z]["factor_0"].copy_(a.T @ optimizers[mu].state[mu]["factor_0"] @ a)
    for optimizer in optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(10):
        step()
    apart = ((a @ z + b - mu).norm() / mu.norm()).item()
    assert apart < 1e-10 if equivariant else apart > 1e-2
