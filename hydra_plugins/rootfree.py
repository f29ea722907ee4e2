"""Where Hydra looks for sweepers: in the package hydra_plugins, and nowhere else."""

from rootfree import search, sweep


class ResumableSweeper(sweep.ResumableSweeper):
    """A grid: `hydra/sweeper=resumable`."""


class HaltonSweeper(search.HaltonSweeper):
    """A search with quasi-random draws: `hydra/sweeper=halton`."""
