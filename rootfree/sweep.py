"""Many runs as a Hydra sweeper: check all, skip what has ended, hand the rest to any launcher, say what is missing."""

import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rootfree import numerics
from rootfree.progress import SweepProgress
from rootfree.run.signals import handle_signals, raise_if_stopped, stop_requested
from rootfree.run.status import ENDED, STATUSES, failure_of, status_of
from rootfree.settings import SETTINGS, RunConfig, SettingsError, check_settings, check_value, settings_errors
from rootfree.train import prepare
from rootfree.trial import try_out

POLL_SECONDS = 1.0  # between two looks at runs that another process trains
QUEUE_SECONDS = 30.0  # between two looks at Slurm's queue
LOST_SECONDS = 300.0  # without a job of ours in it, after which they are given up
SILENT_SECONDS = 3600.0  # without an answer


class Run(NamedTuple):
    """A run of a sweep: the words that make it, where its record lies, what it is called, what it costs (seconds)."""

    overrides: list[str]
    folder: Path
    title: str
    cost: float | None

    @property
    def job(self) -> list[str]:
        """The words for a launcher, which name the run: a yaml may be changed before it is composed again there."""
        return [*self.overrides, f"hydra.job.name={self.folder.name}"]

    @property
    def status(self) -> str:
        """One of `STATUSES`."""
        return status_of(self.folder)

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do."""
        return self.status in ENDED


class ResumableSweeper(Sweeper):
    """A grid of runs that any number of equal commands complete together.

    Args:
        params: the grid of a preset, key -> values; the command line replaces the values of a key.
    """

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params or {}
        self.config: DictConfig
        self.hydra_context: HydraContext
        self.launcher: Launcher
        self.broadcast: Callable[[Any], Any]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra composed, and the launcher that was chosen."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Do all that a command line asks for; of several processes that train runs together, one speaks.

        Args:
            arguments: the words of the command line.

        Raises:
            SettingsError: a setting of a run cannot work; nothing was trained.
            SystemExit: 1 if runs are missing at the end.
            Interrupted: it was asked to stop.
        """
        with settings_errors():
            numerics.choose(self.config.numerics)
        from rootfree import distributed  # with torch, which Hydra's look for sweepers does without

        # before any run is named: how many processes train it may be a part of what it is
        distributed.join(self.config.device)
        self.broadcast = distributed.broadcast
        with nullcontext() if distributed.is_main_process() else redirect_stdout(io.StringIO()):
            self.complete(arguments)

    def complete(self, arguments: list[str]) -> None:
        """Train all runs of the grid that have not ended."""
        runs = self.list_runs(grid(self.params, arguments))
        if self.config.plan:
            print_plan(runs)
            return
        self.train(runs)
        report_missing(runs)

    def list_runs(self, rows: Sequence[list[str]]) -> list[Run]:
        """Compose and check all runs, before the first is trained. What differs in the seed alone is composed once."""
        composed: dict[tuple[str, ...], RunConfig] = {}
        tried: set[tuple[str, ...]] = set()
        runs = []
        described: set[str] = set()
        for key in map(seedless, rows):
            composed[key] = composed.get(key) or self.compose(list(key))
        check_settings(composed.values())
        for row in rows:
            key = seedless(row)
            config = replace(composed[key], overrides=row)
            if seeds := [word for word in row if word.startswith("seed=")]:
                config.settings.seed = OverridesParser.create().parse_override(seeds[-1]).value()
                check_value("seed", config.settings.seed, SETTINGS["seed"])
            data, record, new_model = prepare(config)
            runs.append(Run(row, record.folder, record.title, config.settings.cost))
            if not runs[-1].ended and data.description not in described:
                print(data.description, flush=True)
                described.add(data.description)
            if key not in tried and not runs[-1].ended:
                # what it imports takes seconds, which a sweep that has ended does without
                try_out(config.settings, new_model(), len(data.classes))
                tried.add(key)
        return runs

    def compose(self, overrides: list[str]) -> RunConfig:
        """Compose the config of one run as a launcher will."""
        settings = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        return RunConfig.of(settings, settings.hydra, in_sweep=True)

    def train(self, runs: Sequence[Run]) -> None:
        """Train the runs that have not ended, and wait for those that another process trains.

        Raises:
            Interrupted: it was asked to stop.
        """
        missing = self.broadcast([run for run in runs if not run.ended])
        if not missing:
            return
        with handle_signals(pass_to_children=True), SweepProgress([(run.title, run.folder) for run in runs]):
            while missing:
                self._launch([run.job for run in missing])
                raise_if_stopped()
                elsewhere = [run for run in missing if run.status == "running"]
                while any(run.status == "running" for run in elsewhere):
                    time.sleep(POLL_SECONDS)
                    raise_if_stopped()
                missing = self.broadcast([run for run in elsewhere if not run.ended])  # whoever trained them is gone

    def _launch(self, overrides: list[list[str]]) -> None:
        name = self.config.hydra.runtime.choices["hydra/launcher"]
        one_by_one = name == "basic"  # so that a stop comes between two
        launch = self._launch_on_slurm if name.endswith("slurm") else self.launcher.launch
        for batch in [[one] for one in overrides] if one_by_one else [overrides]:
            if stop_requested():
                return
            try:
                launch(batch, initial_job_idx=0)
            except HydraException:
                raise
            except KeyboardInterrupt:  # a worker's, which Ctrl-C reached before its run began
                raise_if_stopped()
                raise
            except Exception as error:  # a launcher may give up when one of its workers is killed
                print(f"the launcher failed: {type(error).__name__}: {error}", file=sys.stderr)

    def _launch_on_slurm(self, overrides: list[list[str]], initial_job_idx: int) -> None:
        """Launch, but wait for no job that is gone: where Slurm keeps no accounts, submitit would for ever."""
        launched: Future[Any] = Future()

        def launch() -> None:
            try:
                launched.set_result(self.launcher.launch(overrides, initial_job_idx=initial_job_idx))
            except BaseException as error:
                launched.set_exception(error)

        threading.Thread(target=launch, daemon=True).start()
        name, seen = self.config.hydra.launcher.name, time.monotonic()
        while not wait([launched], QUEUE_SECONDS).done:
            raise_if_stopped()  # the jobs go on
            try:
                queue = subprocess.run(["squeue", "--me", "--noheader", f"--name={name}"], capture_output=True,
                                       check=True, timeout=QUEUE_SECONDS).stdout.strip()  # fmt: skip
                limit, what = LOST_SECONDS, f"has had no job named {name}"
            except (OSError, subprocess.SubprocessError):
                queue, limit, what = b"", SILENT_SECONDS, "has not answered"
            if queue:
                seen = time.monotonic()
            elif time.monotonic() - seen > limit:
                raise TimeoutError(f"Slurm {what} for {limit:g} s (squeue --me)")
        launched.result()


def grid(params: dict[str, str], arguments: list[str]) -> list[list[str]]:
    """List the overrides of all runs: the product of what is swept, each with all that is not.

    Args:
        params: the grid of a preset.
        arguments: the words of the command line; a key of theirs takes the place of the preset's.

    Raises:
        SettingsError: a sweep over something that cannot be listed, such as an interval.
    """
    parser = OverridesParser.create()
    given = parser.parse_overrides(arguments)
    keys = {override.get_key_element() for override in given}
    preset = parser.parse_overrides([f"{key}={value}" for key, value in params.items() if key not in keys])
    fixed = [str(override.input_line) for override in given if not override.is_sweep_override()]
    axes = [_values(override) for override in (*preset, *given) if override in preset or override.is_sweep_override()]
    return [[*fixed, *row] for row in product(*axes)]


def seedless(row: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a run without its seed."""
    return tuple(word for word in row if not word.startswith("seed="))


def _values(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise SettingsError(f"{override.input_line} cannot be listed: give values, such as {key}=0.1,0.2 or range(3)")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def print_plan(runs: Sequence[Run]) -> None:
    """Say what would run, what is done, and how long the rest takes."""
    left = [run for run in runs if not run.ended]
    for run in runs:
        print(f"{'to do' if run in left else 'done '} {run.title}")
    minutes = sum(run.cost or 0 for run in left) / 60
    print(f"{len(runs)} runs: {len(runs) - len(left)} done, {len(left)} to do"
          + (f", about {minutes:.0f} minutes one by one, at the size and on the hardware that the preset names"
             if minutes else ""))  # fmt: skip


def report_missing(runs: Sequence[Run]) -> None:
    """Say how all runs ended; exit with 1 if some did not."""
    statuses = [run.status for run in runs]
    print(f"{len(runs)} runs: " + ", ".join(f"{statuses.count(s)} {s}" for s in STATUSES if s in statuses), flush=True)
    for run, status in zip(runs, statuses, strict=True):
        if status == "failed":
            where = f"(traceback: {run.folder}/failure.json)"
            print(f"{run.title} failed: {failure_of(run.folder)['message']} {where}", file=sys.stderr)
    if not set(statuses) <= set(ENDED):
        print("the same command runs what is missing", file=sys.stderr)
        sys.exit(1)
