"""The entry: compose, check, seed, build, fit, close the record. Many runs: `sweep.py`, which Hydra calls."""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rootfree import help, numerics
from rootfree.run import signals
from rootfree.settings import CONFIGS, RunConfig, SettingsError, build, build_once, check_settings, settings_errors
from rootfree.trial import build_model, check_batches, try_out

EXTRAS = {"submitit": "slurm", "ray": "ray", "joblib": "suite"}  # a launcher's name in Hydra -> the extra of ours

# torch takes seconds to import: where a run begins, so that --help, and Hydra as it looks for sweepers, do without it


def main() -> None:
    """Run the command line; a wrong setting ends it with a line or two and exit code 2."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help.text(sys.argv[1:]))
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to us instead of printing a part of the traceback
    try:
        job()
    except (SettingsError, HydraException, OmegaConfBaseException, OSError) as error:
        print(f"error: {' '.join(_message(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (signals.Interrupted, KeyboardInterrupt) as error:
        print("interrupted: the same command goes on from where it is saved", file=sys.stderr)
        sys.exit(signals.REQUEUE if isinstance(error, signals.Interrupted) else 130)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def job(settings: DictConfig) -> None:
    """Train a run: what Hydra calls once, or, maybe in another process, for each run of a sweep."""
    composed = HydraConfig.get()
    os.chdir(composed.runtime.cwd)  # relative paths are the command's; a worker of Ray starts elsewhere
    config = RunConfig.of(settings, composed, in_sweep=composed.mode == RunMode.MULTIRUN)
    with settings_errors():
        numerics.choose(settings.numerics)
    if config.in_sweep:
        _attempt(config, run_id=composed.job.name)
        return
    check_settings([config])
    run(config)


def _attempt(config: RunConfig, run_id: str) -> None:
    """Train a run of a sweep, which stops no other by failing."""
    if signals.stop_requested():
        return
    try:
        run(config, run_id)
    except (signals.Interrupted, KeyboardInterrupt):  # the latter before the run began, or at a second Ctrl-C
        signals.return_to_submitit()  # its record knows; on Slurm the job queues again
    except (Exception, SystemExit) as error:  # the sweep says which runs failed, and why
        print(f"error: {' '.join(config.overrides)}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def run(config: RunConfig, run_id: str | None = None) -> None:
    """Train one run, unless it has ended already; with `torchrun`, together with the other processes.

    Raises:
        SettingsError: a setting cannot work here, such as a folder that is not there, or it is not the run of that id.
    """
    import torch

    from rootfree import distributed
    from rootfree.run.provenance import describe_device
    from rootfree.trainer import pick_device

    settings = config.settings
    distributed.join(settings.device)
    with settings_errors():
        device = pick_device(settings.device)
        data, record, new_model = prepare(config)
        if run_id not in (None, record.run_id):
            raise SettingsError(f"a yaml that this run reads was changed since the sweep began, as run {run_id}")
        reason = distributed.broadcast(record.reason_to_skip())
        if reason is None:
            torch.set_num_threads(settings.threads)
            if not config.in_sweep:  # which tried all before the first
                try_out(settings, new_model(), len(data.classes))
            if settings.plan:
                reason = "to do"
        if reason is None:
            model = new_model().to(device, memory_format=torch.channels_last)
            reason = None if distributed.broadcast(record.open()) else "already running elsewhere"
    if reason is not None:
        if record.is_main_process:
            print(f"{record.title}: {reason}", flush=True)
        return
    with signals.handle_signals():  # to the very end: a stop must not keep the record from telling how the run ended
        try:
            if not record.quiet:
                print(f"{data.description}\n{config.tuned_line}", flush=True)
            torch.manual_seed(settings.seed + distributed.rank())
            summary = build(settings.trainer)(
                model=model,
                loss=build(settings.loss),
                optimizer=build(settings.optimizer),
                schedule=build(settings.schedule),
                data=data,
                record=record,
                seed=settings.seed,
                device=device,
            )
            record.close(summary, describe_device(device))
        except BaseException as error:
            record.fail(error)
            raise
        finally:
            record.release()


@settings_errors()
def prepare(config: RunConfig) -> tuple[Any, Any, Callable[[], Any]]:
    """Return a run's data, its record, and what makes its model.

    Raises:
        SettingsError: the data cannot be had, or do not suit the batch size.
    """
    import torch

    from rootfree import distributed

    settings = config.settings
    with distributed.main_process_first():  # it leaves a cache for the others
        data = build_once(settings.dataset)

    def new_model() -> Any:
        torch.manual_seed(settings.seed)
        return build_model(settings.model, data.for_model, data.name)

    count = distributed.world_size()
    check_batches(data, new_model, count, settings.trainer.get("accumulate", 1))
    divided = count > 1 and (distributed.depends_on_world_size(new_model()) or data.mixes)
    record = build_once(settings.record)(
        outputs=Path(settings.outputs).expanduser(),
        config=_plain(config, data.name) | {"processes": count if divided else None},
        fingerprint=data.fingerprint,
        wandb_logger=build_once(settings.wandb),
        is_main_process=distributed.is_main_process(),
        quiet=config.in_sweep or not distributed.is_main_process(),
    )
    return data, record, new_model


def _plain(config: RunConfig, dataset_name: str) -> dict[str, Any]:
    """Resolve a config to plain values, with the names of its choices and the command that runs it again."""
    names = {group: config.choices[group] for group in ("model", "loss", "optimizer", "schedule")}
    stripped = sorted(word.lstrip("+") for word in config.overrides)
    # tuned numbers that follow the choice, as those of the default do, are no setting of an arm's own
    own = [word for word in stripped if word.startswith("optimizer.") or (word[:6] == "tuned=" and "$" not in word)]
    # where runs and data lie is private
    kept = [word for word in config.overrides if not word.lstrip("+").startswith(("outputs=", "dataset.cache="))]
    kept = ["dataset.root=<folder>" if word.lstrip("+").startswith("dataset.root=") else word for word in kept]
    kept = [*(["--config-dir=<folder>"] if len(config.folders) > 1 else []), *kept]
    resolved: Any = OmegaConf.to_container(config.settings, resolve=True)
    arm = " ".join([names["optimizer"], *own])
    return {
        **resolved,
        "names": {"dataset": dataset_name, **names, "arm": arm, "tuned": config.tuned},
        "command": shlex.join(["python", "-m", "rootfree.train", *kept]),
    }


def _message(error: Exception) -> str:
    """Say what is wrong with a command line, and the way out where Hydra's own words do not."""
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        twice = shlex.quote('{}="{}"'.format(key, value.replace('"', '\\"')))
        return f"{error.override} cannot be read: quote the value twice, {twice}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        extra = next((extra for word, extra in EXTRAS.items() if name.startswith(word)), None)
        needs = f"it needs pip install 'rootfree[{extra}]'" if extra else f"there are {', '.join(error.options or [])}"
        return f"there is no {group} {name!r}: {needs}"
    if isinstance(error, ConfigCompositionException):
        cause = f" {error.__cause__}" if error.__cause__ else ""
        return f"{error}{cause} (--help lists all choices and settings)"
    return str(error)


if __name__ == "__main__":
    # as a module of its own name, not as __main__, so that workers can import what they are sent
    from rootfree import train

    train.main()
