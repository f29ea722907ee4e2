"""Validation cut from train, and a part of train in place of all: seeded, stratified draws, the same for every run."""

import torch

from rootfree.data.splits import S


def hold_out(split: S, count: int, seed: int) -> tuple[S, S]:
    """Cut `count` examples from a split by a seeded stratified draw; return (the rest, the held-out).

    Args:
        split: what to divide.
        count: how many to hold out, shared out over the classes in proportion (largest remainders first).
        seed: of the draw; not the run's seed, so that all runs share one validation split.

    Raises:
        ValueError: if a class would be left without an example on either side.
    """
    sizes = torch.bincount(split.targets).double()
    exact = sizes * count / len(split)
    quota = exact.floor().long()
    quota[(quota - exact).argsort(stable=True)[: count - int(quota.sum())]] += 1
    if int(quota.min()) < 1 or bool((quota >= sizes).any()):
        raise ValueError(
            f"cannot hold out {count} of {len(split)} images: the smallest of {len(sizes)} classes has "
            f"{int(sizes.min())}, and each class needs an image on both sides"
        )
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    held = torch.cat([order[split.targets[order] == label][:size] for label, size in enumerate(quota.tolist())])
    rest = torch.ones(len(split), dtype=torch.bool)
    rest[held] = False
    return split[rest.nonzero().squeeze(1)], split[held.sort().values]


def divide(whole: S, val_share: float, train_size: int | None) -> tuple[S, S]:
    """Cut val from the training examples, and keep `train_size` of the rest (all if None); return (train, val).

    Raises:
        ValueError: if there are too few.
    """
    train, val = hold_out(whole, round(len(whole) * val_share), seed=0)
    if train_size is not None:
        if train_size > len(train):
            raise ValueError(f"dataset.train_size = {train_size} is not allowed: {len(train)} images are left by val")
        train = train if train_size == len(train) else hold_out(train, train_size, seed=1)[1]
    return train, val
