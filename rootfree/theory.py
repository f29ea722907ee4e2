"""The paper's exact statements, and what noisy quadratics say about its empirical ones, as functions that return rows.

Everything is computed in float64 from fixed seeds. A row says what was measured, what the claim predicts, and whether
the two agree. Claims are numbered as in `experiments/claims.yaml`; "the paper" is Lin, Dangel, Eschenhagen, Bae,
Turner, Makhzani, "Can We Remove the Square-Root in Adaptive Gradient Methods? A Second-Order Perspective", ICML 2024.

`expected` has one of three forms, and a row agrees with it if, with e the standard error (0 where there is none),

    "x ± t"    |value - x| <= t + 3 e
    "> x"      value > x + 3 e
    "< x"      value < x - 3 e

An empty `expected` means that the claim predicts nothing: the row is there for comparison. What is exact up to rounding
errors is rounded to nine decimals, so that it does not depend on the order in which a machine adds.

Notation: g the gradient of a mean loss over B examples, s or S the second moment, h = 1 - beta2 its step size, p the
exponent of the denominator (1 root-free, 1/2 rooted, 0 SGD).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from rootfree.optim import IFShampoo, RFRMSProp, RFShampoo

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """One line of the table; `n` counts the independent repetitions behind `value`, `error` is its standard error."""

    claim: str
    check: str
    setting: str
    quantity: str
    value: float
    error: float | None = None
    expected: str = ""
    n: int = 1

    @property
    def agrees(self) -> bool | None:
        """Whether the value is what the claim predicts, by the rule at the top of this file; None without one."""
        if not self.expected:
            return None
        first, *rest = self.expected.split()
        slack = 3 * (self.error or 0.0)
        if first == ">":
            return self.value > float(rest[0]) + slack
        if first == "<":
            return self.value < float(rest[0]) - slack
        return abs(self.value - float(first)) <= float(rest[1]) + slack  # x ± t


def label(power: float) -> str:
    """How a row names an exponent."""
    return f"p={power:g}"


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relative(error: Tensor, scale: Tensor) -> float:
    """Return ||error|| / ||scale||, or 0 where that is a rounding error."""
    return settle((error.norm() / scale.norm()).item())


def settle(value: float) -> float:
    """Return a value that is exact up to rounding errors without them."""
    return round(value, 9) + 0.0  # no -0


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return the slope of the least-squares line through the points, and its standard error."""
    X, Y = torch.tensor(x).double(), torch.tensor(y).double()
    X, Y = X - X.mean(), Y - Y.mean()
    slope = (X @ Y / (X @ X)).item()
    return slope, ((Y - slope * X).norm() / (X.norm() * math.sqrt(max(len(x) - 2, 1)))).item()


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Return the mean of independent values and its standard error."""
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


def matrix_power(S: Tensor, power: float) -> Tensor:
    """Return S^power of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values**power) @ vectors.mT


# C11: rescaled losses and reparameterised parameters


def quadratic(dim: int) -> tuple[Loss, Tensor]:
    """Return mu -> 1/2 (mu - 1)^T H (mu - 1) with eigenvalues of H from 0.1 to 10, and a starting point."""
    Q = torch.linalg.qr(normal(dim, dim, seed=1)).Q
    H = (Q * torch.logspace(-1, 1, dim, dtype=torch.float64)) @ Q.mT
    return lambda mu: 0.5 * (mu - 1) @ H @ (mu - 1), normal(dim, seed=2)


def classifier(inputs: int, hidden: int, classes: int) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """Return (flat parameters, examples) -> logits of a network with one tanh layer, and a starting point."""
    linear = partial(nn.Linear, device="meta", dtype=torch.float64)  # shapes only
    net = nn.Sequential(linear(inputs, hidden), nn.Tanh(), linear(hidden, classes))
    shapes = {name: param.shape for name, param in net.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]

    def logits(flat: Tensor, examples: Tensor) -> Tensor:
        parts = zip(shapes.items(), flat.split(sizes), strict=True)
        return functional_call(net, {name: part.view(shape) for (name, shape), part in parts}, (examples,))

    return logits, 0.5 * normal(sum(sizes), seed=3)


def mlp() -> tuple[Loss, Tensor]:
    """Return the mean cross-entropy of a small network on 64 random examples, and a starting point."""
    logits, start = classifier(3, 4, 3)
    x, y = normal(64, 3, seed=4), torch.arange(64) % 3
    return lambda flat: nn.functional.cross_entropy(logits(flat, x), y), start


def loss_rescaling(
    scales: Sequence[float] = (1 / 16, 1 / 4, 1, 4, 16), steps: int = 5, batch_size: float = 64
) -> list[Row]:
    """C11: how the steps of `RFRMSProp` change when the loss is multiplied by c, as the exponent k in c^k.

    With g -> c g and s0 -> c^2 s0 all of s is multiplied by c^2, the step by c^(1 - 2p): k = -1 root-free, 0 rooted.
    If the curvature of c times the loss is taken for what it is, c times that of the loss (B -> B / c, s0 -> c s0), the
    step is multiplied by c^(1 - p): k = 0 root-free, 1/2 rooted. Derived here.
    """
    loss, start = mlp()
    grads = [torch.func.grad(loss)(start + 0.1 * normal(len(start), seed=10 + i)) for i in range(steps)]

    def log_length(power: float, c: float, curvature: bool) -> float:
        param = nn.Parameter(start.clone())
        size, init = (batch_size / c, c) if curvature else (batch_size, c**2)
        hyper: dict[str, Any] = {"batch_size": size, "init": init, "beta2": 0.9, "damping": 0, "momentum": 0.5}
        optimizer = RFRMSProp([param], lr=0.01, power=power, **hyper)
        for grad in grads:
            param.grad = c * grad
            optimizer.step()
        return (param - start).norm().log().item()

    rows = []
    for curvature, power in itertools.product((False, True), (1.0, 0.5)):
        slope, _ = line([math.log(c) for c in scales], [log_length(power, c, curvature) for c in scales])
        setting = f"{label(power)}, {'curvature rescaled too' if curvature else 'loss rescaled'}, MLP"
        expected = f"{1 - power if curvature else 1 - 2 * power:g} ± 1e-6"
        rows.append(Row("C11", "loss_rescaling", setting, "k of step ~ c^k", settle(slope), None, expected))
    return rows


def diagonal_steps(loss: Loss, start: Tensor, second_moment: Tensor, power: float, steps: int, lr: float) -> Tensor:
    """Where `RFRMSProp` with damping 0 gets from a given second moment."""
    param = nn.Parameter(start.clone())
    optimizer = RFRMSProp([param], lr=lr, batch_size=16, beta2=0.9, damping=0, momentum=0.5, power=power)
    optimizer.state[param] = {
        "second_moment": second_moment.diagonal().clone(),
        "momentum_buffer": torch.zeros_like(start),
    }
    for _ in range(steps):
        optimizer.zero_grad()
        loss(param).backward()
        optimizer.step()
    return param.detach()


def full_matrix_steps(loss: Loss, start: Tensor, second_moment: Tensor, power: float, steps: int, lr: float) -> Tensor:
    """Where S <- (1 - h) S + h B g g^T, mu <- mu - lr S^-p g gets from a given S (paper, full-matrix form)."""
    mu, S = start.clone(), second_moment.clone()
    for _ in range(steps):
        g = torch.func.grad(loss)(mu)
        S = 0.9 * S + 0.1 * 16 * torch.outer(g, g)
        mu = mu - lr * (torch.linalg.solve(S, g) if power == 1 else matrix_power(S, -power) @ g)
    return mu


def reparameterisation(steps: int = 10, lr: float = 0.02, powers: Sequence[float] = (1.0, 0.5, 0.0)) -> list[Row]:
    """C11: the equivariance error under mu = A z + b, ||(A z_T + b) - mu_T|| / ||mu_T - mu_0|| after T steps.

    Both runs start at the same point and the same S0, that is S0_z = A^T S0 A; damping is 0. Then g_z = A^T g and
    S_z = A^T S A, so that A S_z^-1 g_z = S^-1 g exactly, which holds for no other exponent (derived here; affine
    invariance is the paper's claim for root-free methods). A diagonal method commutes with diagonal maps only.
    """
    rows = []
    for name, (loss, start) in {"quadratic": quadratic(8), "MLP": mlp()}.items():
        dim = len(start)
        scale, b = normal(dim, seed=5).exp(), normal(dim, seed=6)
        maps = {"diagonal": scale.diag(), "full": torch.eye(dim).double() + normal(dim, dim, seed=7) / dim**0.5 / 2}
        S0 = torch.eye(dim, dtype=torch.float64)
        methods = {"RFRMSProp": diagonal_steps, "full-matrix": full_matrix_steps}
        for (method, run), (kind, A), power in itertools.product(methods.items(), maps.items(), powers):
            mu = run(loss, start, S0, power, steps, lr)
            z_start = torch.linalg.solve(A, start - b)
            z = run(lambda z, A=A, b=b, loss=loss: loss(A @ z + b), z_start, A.mT @ S0 @ A, power, steps, lr)  # type: ignore[misc]
            error = relative(A @ z + b - mu, mu - start)
            holds = power == 1 and (kind == "diagonal" or run is full_matrix_steps)
            setting = f"{label(power)}, {method}, {kind} map, {name}"
            expected = "0 ± 1e-9" if holds else "> 0.01"
            rows.append(Row("C11", "reparameterisation", setting, "equivariance error", error, None, expected))
    return rows


# C12: preconditioner invariance

STEP_SIZES = tuple(10.0**-k for k in (2, 2.5, 3, 3.5, 4))
Step = Callable[[Tensor, Tensor, float], Tensor]  # (P = S^-1, U, h) -> the new P


def average(P: Tensor, U: Tensor, h: float) -> Tensor:
    """S <- (1 - h) S + h U."""
    return ((1 - h) * P.inverse() + h * U).inverse()


def natural_inverse(P: Tensor, U: Tensor, h: float) -> Tensor:
    """P <- P - h (P U P - P): the natural-gradient step of the Gaussian KL divergence in P = S^-1."""
    return P - h * (P @ U @ P - P)


def natural_factor(P: Tensor, U: Tensor, h: float) -> Tensor:
    """K <- K - h/2 K (K^T U K - I): the same in a factor, P = K K^T, here the Cholesky one (paper, Figure 3's form)."""
    K = torch.linalg.cholesky(P)
    K = K - h / 2 * K @ (K.mT @ U @ K - torch.eye(len(K)))
    return K @ K.mT


def natural_root(P: Tensor, U: Tensor, h: float) -> Tensor:
    """R <- R + h D with R D + D R = U - S: the same in R = S^(1/2)."""
    values, vectors = torch.linalg.eigh(P.inverse())
    roots = values.sqrt()
    D = vectors.mT @ (U - P.inverse()) @ vectors / (roots + roots.unsqueeze(1))
    R = vectors @ (roots.diag() + h * D) @ vectors.mT
    return (R @ R).inverse()


def average_root(P: Tensor, U: Tensor, h: float) -> Tensor:
    """R <- (1 - h) R + h U^(1/2) with R = S^(1/2): a plain moving average of the root."""
    R = (1 - h) * matrix_power(P, -0.5) + h * matrix_power(U, 0.5)
    return (R @ R).inverse()


def euclidean_inverse(P: Tensor, U: Tensor, h: float) -> Tensor:
    """P <- P - h (U - S): a plain gradient step of the KL divergence in S^-1, with no metric."""
    return P - h * (U - P.inverse())


STEPS: dict[str, Step] = {
    "natural step in S^-1": natural_inverse,
    "natural step in K": natural_factor,
    "natural step in S^(1/2)": natural_root,
    "moving average of S^(1/2)": average_root,
    "plain gradient step in S^-1": euclidean_inverse,
}


def preconditioner_invariance(dim: int = 5, problems: int = 8, steps: dict[str, Step] = STEPS) -> list[Row]:
    """C12: one step of S in several coordinates, against the moving average of S itself: k of ||difference|| ~ h^k.

    The difference is that of the updates P^p g, P = S^-1, after one step of size h from the same random S towards
    U = B g g^T + damping I. Two steps that follow the same direction to first order differ by O(h^2), k = 2; others by
    O(h), k = 1. The claim, as we read it, is that the coordinates do not matter for p = 1 and do for p = 1/2. Since
    P -> P^p is smooth, k cannot depend on p (derived here): what decides is whether the step is natural.
    """
    rows = []
    for (name, step), power in itertools.product(steps.items(), (1.0, 0.5)):
        gaps = torch.zeros(problems, len(STEP_SIZES), dtype=torch.float64)
        for i, (j, h) in itertools.product(range(problems), enumerate(STEP_SIZES)):
            K = torch.eye(dim) + 0.3 * normal(dim, dim, seed=20 + i)
            g = normal(dim, seed=40 + i)
            P, U = K @ K.mT, torch.outer(g, g) + 0.1 * torch.eye(dim)
            difference = matrix_power(step(P, U, h), power) - matrix_power(average(P, U, h), power)
            gaps[i, j] = (difference @ g).norm()
        rows.append(slope_row(name, power, gaps))
    return rows


def slope_row(name: str, power: float, gaps: Tensor) -> Row:
    """Row of the slope of gaps (problems, step sizes) against the step size, its error that over problems."""
    slopes = torch.tensor([line([math.log(h) for h in STEP_SIZES], row)[0] for row in gaps.log().tolist()]).double()
    check = "preconditioner_invariance" if power == 1 else "preconditioner_invariance_rooted"
    expected = "< 1.5" if power != 1 else "2 ± 0.1" if name.startswith("natural") else ""
    return Row("C12", check, f"{label(power)}, {name}", "slope", *mean_and_error(slopes), expected, len(slopes))


def kronecker_invariance(shape: tuple[int, ...] = (3, 4), problems: int = 8) -> list[Row]:
    """C12 with Kronecker factors: `IFShampoo`, a natural step in K_n, against `RFShampoo`, a moving average of S_n.

    Both start from equal random factors, with no momentum and gradients small enough for IF-Shampoo's clip to rest. The
    exponent 1/2 takes the root of the factors that the two classes have learned, which themselves apply exponent 1.
    """

    def learned(cls: type, h: float, problem: int) -> tuple[Tensor, list[Tensor]]:
        param = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        hyper = {"precond_lr": h, "precond_momentum": 0.0} if cls is IFShampoo else {"beta2": 1 - h}
        optimizer = cls([param], lr=1.0, batch_size=4, damping=0.1, momentum=0.0, **hyper)
        state = optimizer.state[param]
        state["step"] = state["failures"] = 0
        for axis, dim in enumerate(shape):
            K = torch.eye(dim) + 0.1 * normal(dim, dim, seed=60 + 10 * problem + axis)
            P = K @ K.mT
            state |= (
                {f"factor_{axis}": K} if cls is IFShampoo else {f"factor_{axis}": P.inverse(), f"inverse_{axis}": P}
            )
        param.grad = 0.3 * normal(*shape, seed=60 + 10 * problem + 9)
        optimizer.step()
        if cls is IFShampoo:
            factors = [state[f"factor_{axis}"] @ state[f"factor_{axis}"].mT for axis in range(len(shape))]
        else:
            factors = [state[f"inverse_{axis}"] for axis in range(len(shape))]
        return -param.detach(), [matrix_power(P, 0.5) for P in factors]

    gaps = torch.zeros(2, problems, len(STEP_SIZES), dtype=torch.float64)
    for i, (j, h) in itertools.product(range(problems), enumerate(STEP_SIZES)):
        grad = 0.3 * normal(*shape, seed=60 + 10 * i + 9)
        (step, (L, R)), (twin, (twin_L, twin_R)) = learned(IFShampoo, h, i), learned(RFShampoo, h, i)
        gaps[0, i, j] = (step - twin).norm()
        gaps[1, i, j] = (L @ grad @ R - twin_L @ grad @ twin_R).norm()
    name = "natural step in Kronecker factors (IFShampoo)"
    return [slope_row(name, power, gap) for power, gap in zip((1.0, 0.5), gaps, strict=True)]


# C13: the empirical Fisher of a joint likelihood


def scores(probabilities: Tensor, jacobians: Tensor, labels: Tensor) -> Tensor:
    """Return the gradients of log p(y_n | x_n), (..., N, P), for labels (..., N) and logits' jacobians (N, C, P)."""
    residuals = nn.functional.one_hot(labels, probabilities.shape[-1]) - probabilities
    return torch.einsum("...nc,ncp->...np", residuals, jacobians)


def fisher(probabilities: Tensor, jacobians: Tensor) -> Tensor:
    """Return the Fisher information of all labels, sum_n J_n^T (diag p_n - p_n p_n^T) J_n."""
    covariances = probabilities.diag_embed() - probabilities.unsqueeze(-1) * probabilities.unsqueeze(-2)
    return torch.einsum("ncp,ncd,ndq->pq", jacobians, covariances, jacobians)


def softmax_model(examples: int, inputs: int, classes: int, hidden: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return p(y | x) (N, C) of a small network, its logits' jacobians (N, C, P), and p(y | x) of another network."""
    logits, start = classifier(inputs, hidden, classes)
    x = normal(examples, inputs, seed=70)
    truth = logits(3 * normal(len(start), seed=71), x).softmax(-1)
    return logits(start, x).softmax(-1), jacrev(logits)(start, x), truth


def joint_fisher(
    examples: int = 4, classes: int = 3, batch_sizes: Sequence[int] = (1, 2, 4), factor: bool = True
) -> list[Row]:
    """C13 by enumeration: the expectation of (N/B) G G^T over all labels and all mini-batches is the exact Fisher F.

    G is the *sum* of the scores of a mini-batch, so G G^T is the empirical Fisher of the joint likelihood of its labels
    (the paper's new empirical Fisher). Labels are drawn from the model; each labelling counts by its probability. For
    the mean loss, g = G / B, the same says E[B g g^T] = F / N: the factor B. The relative error is ||E - F|| / ||F||.
    `factor=False` drops both. Scores have mean zero, so cross terms vanish, which is the whole proof.
    """
    probabilities, jacobians, _ = softmax_model(examples, 2, classes, 2)
    F = fisher(probabilities, jacobians)
    labels = torch.tensor(list(itertools.product(range(classes), repeat=examples)))
    weights = probabilities.gather(1, labels.T).prod(0)
    drawn = scores(probabilities, jacobians, labels)
    rows = []
    for size in batch_sizes:
        batches = list(itertools.combinations(range(examples), size))
        sums = torch.stack([drawn[:, list(batch)].sum(1) for batch in batches])
        mean = torch.einsum("l,blp,blq->pq", weights, sums, sums) / len(batches)
        row = partial(
            Row, "C13", "joint_fisher", f"sampled labels, B={size} of N={examples}, enumerated", n=sums[..., 0].numel()
        )
        whole, part = (examples / size, size) if factor else (1.0, 1.0)
        rows += [
            row("error of (N/B) E[G G^T]", relative(whole * mean - F, F), None, "0 ± 1e-9"),
            row("error of B E[g g^T], mean loss", relative(part * mean / size**2 - F / examples, F / examples), None,
                "0 ± 1e-9"),
            row("error of E[G G^T]", relative(mean - F, F), None, f"{1 - size / examples:g} ± 1e-6"),
        ]  # fmt: skip
    return rows


def empirical_bias(examples: Sequence[int] = (8, 32, 128)) -> list[Row]:
    """C13: how far the empirical Fishers are from F if labels come from another model: ||E - F|| / ||F||, exactly.

    The claim (the paper; "Fishers for Free?", ICML 2025, section 2): both are biased, differently. With m_n the mean of
    the score of y_n and C_n its covariance, the joint one has the mean sum_n C_n + (sum_n m_n)(sum_n m_n)^T, the
    per-sample one sum_n (C_n + m_n m_n^T) (derived here): the first bias grows with N, the second does not.
    """
    rows = []
    for count in examples:
        probabilities, jacobians, truth = softmax_model(count, 4, 5, 8)
        F = fisher(probabilities, jacobians)
        means = torch.einsum("nc,ncp->np", truth - probabilities, jacobians)
        covariance, total = fisher(truth, jacobians), means.sum(0)
        for kind, matrix in {"joint": torch.outer(total, total), "per-sample": means.mT @ means}.items():
            error = relative(covariance + matrix - F, F)
            setting = f"labels of another model, {kind}, N={count}"
            rows.append(Row("C13", "empirical_bias", setting, "error of the expectation", error, None, "> 0.1"))
    return rows


def joint_fisher_sampled(examples: int = 32, draws: int = 20_000, batch_size: int = 8) -> list[Row]:
    """C13 by sampling, on a network too large to enumerate: <A, F> / <F, F> of an estimate A of the Fisher F.

    1 is unbiased in the direction of F. For labels drawn from the model both the joint and the per-sample empirical
    Fisher must give 1; the joint one is a single outer product and so the noisier.
    """
    probabilities, jacobians, _ = softmax_model(examples, 4, 5, 8)
    F = fisher(probabilities, jacobians)
    generator = torch.Generator().manual_seed(73)
    labels = torch.multinomial(probabilities, draws, replacement=True, generator=generator).T
    batches = torch.rand(draws, examples, generator=generator).argsort(1)[:, :batch_size]
    ratios: dict[str, list[Tensor]] = {"joint": [], f"joint of B={batch_size}, times N/B": [], "per-sample": []}
    for label_chunk, batch_chunk in zip(labels.split(2000), batches.split(2000), strict=True):
        drawn = scores(probabilities, jacobians, label_chunk)
        part = drawn.gather(1, batch_chunk.unsqueeze(2).expand(-1, -1, drawn.shape[2]))
        values = (
            quotient(drawn.sum(1), F),
            examples / batch_size * quotient(part.sum(1), F),
            quotient(drawn, F).sum(1),
        )
        for chunks, value in zip(ratios.values(), values, strict=True):
            chunks.append(value)
    rows = []
    for kind, chunks in ratios.items():
        ratio = torch.cat(chunks)
        row = partial(Row, "C13", "joint_fisher_sampled", f"sampled labels, {kind}, N={examples}", n=draws)
        rows.append(row("ratio to F", *mean_and_error(ratio), "1 ± 0"))
        rows.append(row("standard deviation of the ratio", ratio.std().item()))
    return rows


def quotient(G: Tensor, F: Tensor) -> Tensor:
    """Return <G G^T, F> / <F, F> for gradients (..., P)."""
    return ((G @ F) * G).sum(-1) / F.square().sum()


# Noisy quadratics: C9, C15 and the exponent


def noisy_quadratic(
    curvatures: Tensor,
    lr: Tensor | float,
    *,
    power: Tensor | float,
    noise: Tensor | float,
    steps: int,
    starts: Tensor,
    factor: Tensor | float = 1.0,
    beta2: Tensor | float = 0.99,
    damping: Tensor | float = 1e-4,
    init: float = 1.0,
) -> Tensor:
    """Return the losses (steps + 1, ..., seeds) of RF-RMSProp without momentum on 1/2 sum_i h_i mu_i^2.

        g   <- h mu + noise sqrt(h) xi        xi standard normal: per-sample noise with the covariance of the curvature
        s   <- beta2 s + (1 - beta2) factor g^2,  s0 = init;     mu <- mu - lr g / (s + damping)^power

    so that noise = B^(-1/2) is a mini-batch of B examples, and factor = B the paper's scaling. `starts` is (seeds,
    dim), the other arguments broadcast against it; all settings see the same noise. The model is that of Zhang et al.,
    "Which Algorithmic Choices Matter at Which Batch Sizes? Insights From a Noisy Quadratic Model", NeurIPS 2019.
    """
    settings = [torch.as_tensor(x, dtype=torch.float64) for x in (lr, power, noise, factor, beta2, damping)]
    lr, power, noise, factor, beta2, damping = settings
    shape = torch.broadcast_shapes(starts.shape, *(x.shape for x in settings))
    mu, s = starts.expand(shape).clone(), torch.full(shape, init, dtype=torch.float64)
    generator = torch.Generator().manual_seed(83)
    scale, weight = noise * curvatures.sqrt(), (1 - beta2) * factor
    exponents = set(power.flatten().tolist())
    losses = [(0.5 * curvatures * mu.square()).sum(-1)]
    for _ in range(steps):
        xi = torch.randn(starts.shape, generator=generator, dtype=torch.float64)
        g = torch.addcmul(scale * xi, curvatures, mu)
        s.mul_(beta2).add_(weight * g.square())
        denominator = s + damping
        if exponents != {1.0}:
            denominator = denominator.sqrt_() if exponents == {0.5} else denominator.log_().mul_(power).exp_()
        mu.sub_(lr * g.div_(denominator))
        losses.append((0.5 * curvatures * mu.square()).sum(-1))
    return torch.stack(losses).nan_to_num(nan=math.inf)


def best_lr(lrs: Tensor, losses: Tensor) -> Tensor:
    """Return log2 of the best learning rate for losses (..., lrs): the vertex of the parabola through the minimum."""
    y = losses.log2().clamp(max=1000)
    i = y.argmin(-1, keepdim=True).clamp(1, len(lrs) - 2)
    left, mid, right = (y.gather(-1, i + k) for k in (-1, 0, 1))
    offset = (0.5 * (left - right) / (left - 2 * mid + right)).clamp(-1, 1).nan_to_num()
    x = lrs.log2()
    return (x[i] + offset * (x[1] - x[0])).squeeze(-1)


def octaves(low: float, high: float, per_octave: int) -> Tensor:
    """Return the learning rates 2^low ... 2^high."""
    return 2 ** torch.linspace(low, high, round((high - low) * per_octave) + 1, dtype=torch.float64)


def batch_size_factor(
    batch_sizes: Sequence[int] = (8, 16, 32, 64, 128, 256, 512),
    seeds: int = 32,
    steps: int = 400,
    groups: int = 8,
    powers: Sequence[float] = (0.0, 1.0, 0.5),
) -> list[Row]:
    """C9: how the best learning rate moves with the batch size, as k in best lr ~ B^k, with and without the factor B.

    For each arm beta2 and damping (as small as the published winners') are tuned together with lr at the middle batch
    size and then kept; without the factor, damping and the initial s are in units of g^2. The start is far from the
    optimum or near, where noise dominates the gradients at all batch sizes; the budget is a number of steps or of
    examples. The claim (paper, Figure 4: the factor is essential), taken literally, predicts k = 0 with the factor,
    here within 1/4, and another k without, here below -1/4: in the noise E[g^2] ~ 1/B, so 1 / s grows as B. SGD's k is
    what the problem itself asks for, since less noise allows a larger step; so the same is asked of the difference to
    it. Where the gradient dominates its noise, B g^2 ~ B, and the factor should be the one that shifts (derived here).
    The error is that over groups of seeds; `powers` begin with 0, SGD.
    """
    h = 1 / torch.arange(1, 11, dtype=torch.float64)
    lrs, middle = octaves(-16, 4, 2), batch_sizes[len(batch_sizes) // 2]
    beta2s, dampings = torch.tensor([0.9, 0.97, 0.99]), torch.tensor([1e-5, 1e-4, 1e-3])

    def final(
        model: Callable[..., Tensor], factor: bool, size: int, steps: int, beta2: Tensor, damping: Tensor
    ) -> Tensor:
        losses = model(noise=size**-0.5, factor=size if factor else 1, beta2=beta2, damping=damping, steps=steps)
        return losses[-1].unflatten(-1, (groups, -1)).mean(-1)  # (..., lrs, groups)

    rows: list[Row] = []
    sgd: dict[tuple[str, str], Tensor] = {}
    for (place, distance), power, factor in itertools.product(
        {"far from": 10.0, "near": 0.1}.items(), powers, (True, False)
    ):
        if power == 0 and factor:
            continue  # the same as without
        starts = math.sqrt(distance / middle) * normal(seeds, len(h), seed=80) / h.sqrt()
        unit = 1.0 if factor else 1 / middle
        model = partial(noisy_quadratic, h, lrs.view(-1, 1, 1), power=power, starts=starts, init=unit)
        tuning = final(model, factor, middle, steps, beta2s.view(-1, 1, 1, 1, 1), unit * dampings.view(-1, 1, 1, 1))
        i, j = divmod(int(tuning.mean(-1).amin(-1).argmin()), len(dampings))
        for budget in ("steps", "examples"):
            best = []  # log2 of the best lr, (groups,) for each batch size
            for size in batch_sizes:
                count = steps if budget == "steps" else round(steps * middle / size)
                best.append(best_lr(lrs, final(model, factor, size, count, beta2s[i], unit * dampings[j]).mT))
            sizes = [math.log2(size) for size in batch_sizes]
            slopes = torch.tensor([line(sizes, y)[0] for y in torch.stack(best).mT.tolist()]).double()
            arm = "SGD" if power == 0 else "factor B" if factor else "no factor"
            setting = f"{label(power)}, {arm}, {place} the optimum, equal {budget}"
            expected = "" if power != 1 else "0 ± 0.25" if factor else "< -0.25"
            row = partial(Row, "C9", "batch_size_factor", setting, expected=expected, n=groups)
            rows.append(row("k of best lr ~ B^k", *mean_and_error(slopes)))
            if power == 0:
                sgd[place, budget] = slopes
            else:
                rows.append(row("k minus SGD's", *mean_and_error(slopes - sgd[place, budget])))
    return rows


def stationary_error(seeds: int = 32, steps: int = 3000, fast: int = 200) -> list[Row]:
    """C15: what a constant learning rate leaves, on a noisy and on a two-dimensional ill-conditioned quadratic.

    Learning rates of different exponents have different units, so methods are compared at equal speed: at the smallest
    learning rate (in a grid of 2^(1/4)) with which the mean loss falls to a tenth within `fast` steps. Reported are

    - the mean loss over the last third of the steps there (root-free over rooted: the claim predicts more than 1);
    - the headroom: the smallest larger learning rate with which a seed stays above its start, over that of equal speed
      (root-free over rooted: the claim predicts less than 1);
    - k in stationary error ~ lr^k, over the learning rates, up to 4 times that, with which the error is stationary.

    Without noise g -> 0 and s follows, until the damping takes over: a step is about lr / g root-free and lr rooted, so
    mu oscillates at sqrt(lr) and at lr, the losses are ~ lr and ~ lr^2; SGD converges (derived here). Errors below
    1e-12 are reported as that. n is the number of seeds, of starting points where there is no noise.
    """
    lrs = octaves(-22, 8, 4)
    many, two = 1 / torch.arange(1, 11, dtype=torch.float64), torch.tensor([1.0, 0.01]).double()
    problems = {
        "noisy quadratic, B=32": (many, 32**-0.5, 32.0, 1e-4, normal(seeds, 10, seed=81) / many.sqrt()),
        "2-D, condition 100, damping 1e-4": (two, 0.0, 1.0, 1e-4, circle(seeds) / two.sqrt()),
        "2-D, condition 100, damping 1e-12": (two, 0.0, 1.0, 1e-12, circle(seeds) / two.sqrt()),
    }
    rows: list[Row] = []
    for problem, (h, noise, factor, damping, starts) in problems.items():
        model = partial(noisy_quadratic, h, lrs.view(-1, 1, 1), noise=noise, factor=factor, damping=damping)
        errors, rooms = [], []
        for power in (1.0, 0.5, 0.0):
            losses = model(power=power, steps=steps, starts=starts)  # (steps + 1, lrs, seeds)
            means, late = losses.mean(-1), losses[-steps // 3 :].mean(0).clamp(min=1e-12)
            first = int((means[: fast + 1] <= 0.1 * means[0]).any(0).double().argmax())
            stuck = (late > losses[0]).any(-1)
            stuck[: first + 1] = False
            errors.append(late[first])
            rooms.append((lrs[int(stuck.double().argmax())] / lrs[first]).item() if stuck.any() else math.inf)
            row = partial(Row, "C15", "stationary_error", f"{label(power)}, {problem}", n=seeds)
            rows += [
                row("lr at equal speed", lrs[first].item()),
                row("stationary error at equal speed", *mean_and_error(late[first])),
                row("headroom of lr", rooms[-1]),
            ]
            before, settled = means[steps // 3 : -steps // 3].mean(0), means[: steps // 3].amin(0) <= 0.1 * means[0]
            floor = torch.maximum(0.9 * before, torch.tensor(1e-10))
            still = [k for k in range(first + 9) if settled[k] and late[k].mean() > floor[k]]
            if len(still) > 2:
                slope = line(lrs[still].log().tolist(), late[still].mean(-1).log().tolist())
                rows.append(row("k of error ~ lr^k", *slope))
        (free, rooted, _), row = errors, partial(Row, "C15", "stationary_error", f"p=1 / p=0.5, {problem}", n=seeds)
        ratio = (free.mean() / rooted.mean()).item()
        rows += [
            row("ratio of stationary errors", ratio, ratio_error(free, rooted), "> 1"),
            row("ratio of headrooms", rooms[0] / rooms[1], None, "< 1"),
        ]
    return rows


def circle(count: int) -> Tensor:
    """Return points on the unit circle, (count, 2), off the axes."""
    angles = 2 * math.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.stack([angles.cos(), angles.sin()], -1)


def ratio_error(numerators: Tensor, denominators: Tensor) -> float:
    """Return the standard error of mean(numerators) / mean(denominators), paired by seed, to first order."""
    ratio = numerators.mean() / denominators.mean()
    return ((numerators - ratio * denominators).std() / denominators.mean() / math.sqrt(len(numerators))).item()


POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)


def exponents(
    noises: Sequence[float] = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4), seeds: int = 32, steps: int = 500, groups: int = 8
) -> list[Row]:
    """C6: the best exponent of a noisy quadratic against its noise variance 1/B; lr tuned for each by the same grid.

    Once for RF-RMSProp with power p, and once for the fixed preconditioner h^-p, the exact diagonal curvature, whose
    expected loss follows from E[mu^2] <- (1 - lr h^(1-p))^2 E[mu^2] + lr^2 noise h^(1-2p) without sampling. Known for
    the latter (Zhang et al., NeurIPS 2019): the less noise, the closer the best exponent is to 1. Condition 1000, from
    E[mu^2] = 1; losses are those of the last step over those of the start; the best exponent of RF-RMSProp is the mean
    over groups of seeds. Its s follows h only where noise dominates, and h^2 mu^2 where it does not (derived here).
    """
    h = torch.logspace(0, -3, 16, dtype=torch.float64)
    starts = normal(seeds, len(h), seed=82)
    lrs, powers = octaves(-14, 18, 2), torch.tensor(POWERS).double()
    rows: list[Row] = []
    best: dict[tuple[str, float], tuple[float, float | None]] = {}
    for variance in noises:
        losses = noisy_quadratic(
            h,
            lrs.view(-1, 1, 1),
            power=powers.view(-1, 1, 1, 1),
            noise=variance**0.5,
            factor=1 / variance,
            beta2=0.98,
            steps=steps,
            starts=starts,
        )
        losses = losses[-1] / losses[0].mean()  # (powers, lrs, seeds)
        tuned = losses[torch.arange(len(powers)), losses.mean(-1).argmin(-1)]
        winners = powers[losses.unflatten(-1, (groups, -1)).mean(-1).amin(1).argmin(0)]
        fixed = fixed_preconditioner(h, lrs, powers, variance, steps).amin(-1)
        best["RF-RMSProp", variance] = mean_and_error(winners)
        best["fixed h^-p", variance] = powers[fixed.argmin()].item(), None
        for i, power in enumerate(POWERS):
            row = partial(Row, "C6", "exponents", quantity="tuned loss over start")
            value, spread = mean_and_error(tuned[i])
            setting = f"{label(power)}, noise {variance:g}"
            rows += [
                row(f"{setting}, RF-RMSProp", value=value, error=spread, n=seeds),
                row(f"{setting}, fixed h^-p", value=fixed[i].item()),
            ]
    error: float | None
    for (method, variance), (value, error) in best.items():
        n = 1 if error is None else groups
        rows.append(Row("C6", "exponents", f"noise {variance:g}, {method}", "best exponent", value, error, "", n))
    for method in ("RF-RMSProp", "fixed h^-p"):
        (most, e), (least, f) = best[method, max(noises)], best[method, min(noises)]
        error, n = (None, 1) if e is None or f is None else (math.hypot(e, f), groups)
        quantity = "best exponent, least noise minus most"
        rows.append(Row("C6", "exponents", method, quantity, least - most, error, "> 0", n))
    return rows


def fixed_preconditioner(h: Tensor, lrs: Tensor, powers: Tensor, variance: float, steps: int) -> Tensor:
    """Return the expected loss over that of the start, (powers, lrs), of mu <- mu - lr h^-p g from E[mu^2] = 1."""
    lr, p = lrs.view(-1, 1), powers.view(-1, 1, 1)
    second = torch.ones_like(h).expand(len(powers), len(lrs), -1)
    for _ in range(steps):
        second = (1 - lr * h ** (1 - p)).square() * second + lr.square() * variance * h ** (1 - 2 * p)
    return ((h * second).sum(-1) / h.sum()).nan_to_num(nan=math.inf)


CHECKS: tuple[Callable[[], list[Row]], ...] = (
    exponents,
    batch_size_factor,
    loss_rescaling,
    reparameterisation,
    preconditioner_invariance,
    kronecker_invariance,
    joint_fisher,
    joint_fisher_sampled,
    empirical_bias,
    stationary_error,
)
