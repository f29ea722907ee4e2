"""Noisy quadratics: C9, C15 and the exponent."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rootfree.theory.measured import Measured, label, line, mean_and_error, normal


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
) -> list[Measured]:
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

    def final(model: Callable[..., Tensor], factor: bool, size: int, **settings: Any) -> Tensor:
        losses = model(noise=size**-0.5, factor=size if factor else 1, **settings)
        return losses[-1].unflatten(-1, (groups, -1)).mean(-1)  # (..., lrs, groups)

    rows: list[Measured] = []
    sgd: dict[tuple[str, str], Tensor] = {}
    for (place, distance), power, factor in itertools.product(
        {"far from": 10.0, "near": 0.1}.items(), powers, (True, False)
    ):
        if power == 0 and factor:
            continue  # the same as without
        starts = math.sqrt(distance / middle) * normal(seeds, len(h), seed=80) / h.sqrt()
        unit = 1.0 if factor else 1 / middle
        model = partial(noisy_quadratic, h, lrs.view(-1, 1, 1), power=power, starts=starts, init=unit)
        grid = {"beta2": beta2s.view(-1, 1, 1, 1, 1), "damping": unit * dampings.view(-1, 1, 1, 1)}
        tuning = final(model, factor, middle, steps=steps, **grid)
        i, j = divmod(int(tuning.mean(-1).amin(-1).argmin()), len(dampings))
        tuned = {"beta2": beta2s[i], "damping": unit * dampings[j]}
        for budget in ("steps", "examples"):
            best = []  # log2 of the best lr, (groups,) for each batch size
            for size in batch_sizes:
                count = steps if budget == "steps" else round(steps * middle / size)
                best.append(best_lr(lrs, final(model, factor, size, steps=count, **tuned).mT))
            sizes = [math.log2(size) for size in batch_sizes]
            slopes = torch.tensor([line(sizes, y)[0] for y in torch.stack(best).mT.tolist()]).double()
            arm = "SGD" if power == 0 else "factor B" if factor else "no factor"
            setting = f"{label(power)}, {arm}, {place} the optimum, equal {budget}"
            expected = "" if power != 1 else "0 ± 0.25" if factor else "< -0.25"
            row = partial(Measured, "C9", "batch_size_factor", setting, expected=expected, n=groups)
            rows.append(row("k of best lr ~ B^k", *mean_and_error(slopes)))
            if power == 0:
                sgd[place, budget] = slopes
            else:
                rows.append(row("k minus SGD's", *mean_and_error(slopes - sgd[place, budget])))
    return rows


def stationary_error(seeds: int = 32, steps: int = 3000, fast: int = 200) -> list[Measured]:
    """C15: what a constant learning rate leaves, on a noisy and on a two-dimensional ill-conditioned quadratic.

    Learning rates of different exponents have different units, so methods are compared at equal speed: at the smallest
    learning rate with which the mean loss falls to a tenth within `fast` steps, in a grid of 2^(1/16), which is fine
    enough to tell headrooms apart. Reported are

    - the mean loss over the last third of the steps there (root-free over rooted: the claim predicts more than 1);
    - the headroom: the smallest larger learning rate with which a seed stays above its start, over that of equal speed
      (root-free over rooted: the claim predicts less than 1);
    - k in stationary error ~ lr^k, over the learning rates, up to 4 times that, with which the error is stationary.

    Without noise g -> 0 and s follows, until the damping takes over: a step is about lr / g root-free and lr rooted, so
    mu oscillates at sqrt(lr) and at lr, the losses are ~ lr and ~ lr^2; SGD converges (derived here). Errors below
    1e-12 are reported as that. n is the number of seeds, of starting points where there is no noise.
    """
    per_octave = 16
    lrs = octaves(-8, 8, per_octave)
    many, two = 1 / torch.arange(1, 11, dtype=torch.float64), torch.tensor([1.0, 0.01]).double()
    problems = {
        "noisy quadratic, B=32": (many, 32**-0.5, 32.0, 1e-4, normal(seeds, 10, seed=81) / many.sqrt()),
        "2-D, condition 100, damping 1e-4": (two, 0.0, 1.0, 1e-4, circle(seeds) / two.sqrt()),
        "2-D, condition 100, damping 1e-12": (two, 0.0, 1.0, 1e-12, circle(seeds) / two.sqrt()),
    }
    rows: list[Measured] = []
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
            row = partial(Measured, "C15", "stationary_error", f"{label(power)}, {problem}", n=seeds)
            rows.append(row("lr at equal speed", lrs[first].item()))
            rows.append(row("stationary error at equal speed", *mean_and_error(late[first])))
            rows.append(row("headroom of lr", rooms[-1]))
            before, settled = means[steps // 3 : -steps // 3].mean(0), means[: steps // 3].amin(0) <= 0.1 * means[0]
            floor = torch.maximum(0.9 * before, torch.tensor(1e-10))
            reach = first + 2 * per_octave + 1
            still = [k for k in range(reach) if settled[k] and late[k].mean() > floor[k]]
            if len(still) > 2:
                slope = line(lrs[still].log().tolist(), late[still].mean(-1).log().tolist())
                rows.append(row("k of error ~ lr^k", *slope))
        (free, rooted, _), row = (
            errors,
            partial(Measured, "C15", "stationary_error", f"p=1 / p=0.5, {problem}", n=seeds),
        )
        ratio = (free.mean() / rooted.mean()).item()
        rows.append(row("ratio of stationary errors", ratio, ratio_error(free, rooted), "> 1"))
        rows.append(row("ratio of headrooms", rooms[0] / rooms[1], None, "< 1"))
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
) -> list[Measured]:
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
    rows: list[Measured] = []
    best: dict[tuple[str, float], tuple[float, float | None]] = {}
    for variance in noises:
        losses = noisy_quadratic(h, lrs.view(-1, 1, 1), power=powers.view(-1, 1, 1, 1), noise=variance**0.5,
                                 factor=1 / variance, beta2=0.98, steps=steps, starts=starts)  # fmt: skip
        losses = losses[-1] / losses[0].mean()  # (powers, lrs, seeds)
        tuned = losses[torch.arange(len(powers)), losses.mean(-1).argmin(-1)]
        winners = powers[losses.unflatten(-1, (groups, -1)).mean(-1).amin(1).argmin(0)]
        fixed = fixed_preconditioner(h, lrs, powers, variance, steps).amin(-1)
        best["RF-RMSProp", variance] = mean_and_error(winners)
        best["fixed h^-p", variance] = powers[fixed.argmin()].item(), None
        for i, power in enumerate(POWERS):
            row = partial(Measured, "P3", "exponents", quantity="tuned loss over start")
            value, spread = mean_and_error(tuned[i])
            setting = f"{label(power)}, noise {variance:g}"
            rows.append(row(f"{setting}, RF-RMSProp", value=value, error=spread, n=seeds))
            rows.append(row(f"{setting}, fixed h^-p", value=fixed[i].item()))
    error: float | None
    for (method, variance), (value, error) in best.items():
        n = 1 if error is None else groups
        rows.append(Measured("P3", "exponents", f"noise {variance:g}, {method}", "best exponent", value, error, "", n))
    for method in ("RF-RMSProp", "fixed h^-p"):
        (most, e), (least, f) = best[method, max(noises)], best[method, min(noises)]
        error, n = (None, 1) if e is None or f is None else (math.hypot(e, f), groups)
        quantity = "best exponent, least noise minus most"
        rows.append(Measured("P3", "exponents", method, quantity, least - most, error, "> 0", n))
    return rows


def fixed_preconditioner(h: Tensor, lrs: Tensor, powers: Tensor, variance: float, steps: int) -> Tensor:
    """Return the expected loss over that of the start, (powers, lrs), of mu <- mu - lr h^-p g from E[mu^2] = 1."""
    lr, p = lrs.view(-1, 1), powers.view(-1, 1, 1)
    second = torch.ones_like(h).expand(len(powers), len(lrs), -1)
    for _ in range(steps):
        second = (1 - lr * h ** (1 - p)).square() * second + lr.square() * variance * h ** (1 - 2 * p)
    return ((h * second).sum(-1) / h.sum()).nan_to_num(nan=math.inf)
