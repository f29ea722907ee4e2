"""C13: the empirical Fisher of a joint likelihood."""

import itertools
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import jacrev

from rootfree.theory.measured import Measured, classifier, mean_and_error, normal, relative


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
) -> list[Measured]:
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
        setting = f"sampled labels, B={size} of N={examples}, enumerated"
        row = partial(Measured, "C13", "joint_fisher", setting, n=sums[..., 0].numel())
        whole, part = (examples / size, size) if factor else (1.0, 1.0)
        rows += [
            row("error of (N/B) E[G G^T]", relative(whole * mean - F, F), None, "0 ± 1e-9"),
            row("error of B E[g g^T], mean loss", relative(part * mean / size**2 - F / examples, F / examples), None,
                "0 ± 1e-9"),
            row("error of E[G G^T]", relative(mean - F, F), None, f"{1 - size / examples:g} ± 1e-6"),
        ]  # fmt: skip
    return rows


def empirical_bias(examples: Sequence[int] = (8, 32, 128)) -> list[Measured]:
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
            rows.append(Measured("C13", "empirical_bias", setting, "error of the expectation", error, None, "> 0.1"))
    return rows


def joint_fisher_sampled(examples: int = 32, draws: int = 20_000, batch_size: int = 8) -> list[Measured]:
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
        values = quotient(drawn.sum(1), F), examples / batch_size * quotient(part.sum(1), F), quotient(drawn, F).sum(1)
        for chunks, value in zip(ratios.values(), values, strict=True):
            chunks.append(value)
    rows = []
    for kind, chunks in ratios.items():
        ratio = torch.cat(chunks)
        row = partial(Measured, "C13", "joint_fisher_sampled", f"sampled labels, {kind}, N={examples}", n=draws)
        rows.append(row("ratio to F", *mean_and_error(ratio), "1 ± 0"))
        rows.append(row("standard deviation of the ratio", ratio.std().item()))
    return rows


def quotient(G: Tensor, F: Tensor) -> Tensor:
    """Return <G G^T, F> / <F, F> for gradients (..., P)."""
    return ((G @ F) * G).sum(-1) / F.square().sum()
