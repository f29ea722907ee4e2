"""Sweeps on clusters, with real processes: submitit on this machine, its script for Slurm, a Ray head and worker."""

import json
import multiprocessing
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny
from hydra.core.config_store import ConfigStore
from test_configs import composed

from rootfree import distributed

Entry = Callable[..., list[dict[str, Any]]]
EPOCHS = 15
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and 127.0.0.2 as an address")


def needs(extra: str, plugin: str) -> None:
    pytest.importorskip(f"hydra_plugins.{plugin}", reason=f"needs pip install rootfree[{extra}]")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("local", "JoblibLauncher"),
        ("slurm", "SlurmLauncher"),
        ("submitit_slurm", "SlurmLauncher"),
        ("submitit_local", "LocalLauncher"),
        ("ray_cluster", "RayLauncher"),
        ("ray", "RayLauncher"),
    ],
)
def test_presets_and_the_plugins_own_names_compose(name: str, target: str) -> None:
    if target != "JoblibLauncher":
        extra = "ray" if target == "RayLauncher" else "slurm"
        needs(extra, {"ray": "hydra_ray_launcher", "slurm": "hydra_submitit_launcher"}[extra])
    launcher = composed(f"hydra/launcher={name}", hydra=True).hydra.launcher
    assert launcher._target_.endswith(f".{target}")


@pytest.mark.parametrize(("name", "extra"), [("submitit_local", "slurm"), ("slurm", "slurm"), ("ray", "ray")])
def test_a_launcher_that_is_not_installed_says_what_to_install(
    entry: Entry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, extra: str
) -> None:
    known = ConfigStore.instance().repo["hydra"]["launcher"]
    for plugin in ("submitit_local", "submitit_slurm", "ray"):
        monkeypatch.delitem(known, f"{plugin}.yaml", raising=False)
    with pytest.raises(SystemExit) as end:
        entry("hydra.mode=MULTIRUN", f"hydra/launcher={name}")
    assert end.value.code == 2
    assert f"pip install 'rootfree[{extra}]'" in capsys.readouterr().err


def test_a_launcher_takes_settings_that_the_default_optimizer_lacks(entry: Entry) -> None:
    grid = ["hydra.mode=MULTIRUN", "optimizer=rf_rmsprop,rf_adamw", "seed=0,1", "trainer.epochs=1"]
    one = ["optimizer.damping=1e-3", "optimizer.state_dtype=bfloat16", "optimizer.rounding=stochastic"]
    summaries = entry(*grid, *one, "hydra/launcher=joblib", "hydra.launcher.n_jobs=1")
    assert [summary["config"]["optimizer"]["damping"] for summary in summaries] == [1e-3] * 4
    assert {summary["optimizer"] for summary in summaries} == {"rf_rmsprop", "rf_adamw"}


def test_a_command_line_value_replaces_a_presets_grid_for_a_launcher_too(entry: Entry) -> None:
    preset = ["+experiments/ablation=damping", "seed=0,1", "optimizer.damping=1e-14", "trainer.epochs=1", "tuned=none"]
    summaries = entry(*preset, "hydra/launcher=joblib", "hydra.launcher.n_jobs=1")
    assert {summary["arm"] for summary in summaries} == {"rf_rmsprop optimizer.damping=1e-14 tuned=none"}


def test_workers_of_joblib_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    for name in ("MainProcess", "LokyProcess-1", "LokyProcess-2", "LokyProcess-3"):
        monkeypatch.setattr(multiprocessing.current_process(), "name", name)
        distributed.join("auto")
        distributed.join("cpu")
    assert taken == [0, 1, 0]


def test_slurm_is_given_the_right_script(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("slurm", "hydra_submitit_launcher")
    (tmp_path / "bin").mkdir()
    for name, script in {"srun": "", "sbatch": 'cp "$1" script; echo no Slurm here >&2; exit 1'}.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    settings = ["partition=fast", "timeout_min=90", "cpus_per_task=2", "mem_gb=8", "array_parallelism=2"]
    words = ["hydra.mode=MULTIRUN", "hydra/launcher=slurm", *(f"hydra.launcher.{setting}" for setting in settings)]
    with pytest.raises(SystemExit):
        entry(*words, "seed=range(3)")
    assert "no Slurm here" in capsys.readouterr().err
    script = (tmp_path / "script").read_text()
    flags = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert flags >= {
        "partition=fast",
        "time=90",
        "cpus-per-task=2",
        "gpus-per-node=1",
        "mem=8GB",
        "array=0-2%2",
        "signal=USR2@180",
        "requeue",
        "open-mode=append",
        f"output={tmp_path}/outputs/slurm/%A_%a/%A_%a_0_log.out",
    }
    assert any(re.fullmatch(r"job-name=rootfree-\d{8}-\d{6}", flag) for flag in flags)
    assert f"{sys.executable} -u -m submitit.core._submit {tmp_path}/outputs/slurm/" in script


def test_jobs_that_slurm_lost_are_not_waited_for(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cancelled where there are no accounts: submitit waits for ever, the queue tells."""
    needs("slurm", "hydra_submitit_launcher")
    (tmp_path / "bin").mkdir()
    asked = tmp_path / "asked"  # in the queue at the first look, gone at the next
    queue = f'echo "$@" >> {asked}; test $(wc -l < {asked}) -gt 1 || echo 77_0'
    for name, script in {"srun": "", "sbatch": "echo Submitted batch job 77", "squeue": queue, "sacct": ""}.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr("rootfree.sweep.QUEUE_SECONDS", 0.1)
    monkeypatch.setattr("rootfree.sweep.LOST_SECONDS", 0.3)
    with pytest.raises(SystemExit) as end:
        entry("hydra.mode=MULTIRUN", "hydra/launcher=slurm", "seed=range(2)")
    said = capsys.readouterr()
    assert end.value.code == 1
    assert re.search(r"Slurm has had no job named rootfree-[\d-]+ for 0.3 s", said.err)
    assert "2 runs: 2 to do" in said.out
    assert len(asked.read_text().splitlines()) > 2


def test_jobs_of_submitit_drain_a_grid_and_one_that_must_go_queues_again(photos: Path, tmp_path: Path) -> None:
    needs("slurm", "hydra_submitit_launcher")
    outputs = tmp_path / "outputs"
    with sweep(photos, outputs, "hydra/launcher=submitit_local") as command:
        folder, lines = half_way(outputs)
        os.kill(trainer_of(folder), signal.SIGUSR2)  # as Slurm does before the time limit
        assert command.wait(240) == 0
    assert_each_ran_once(outputs)
    assert (folder / "metrics.jsonl").read_text().startswith(lines), "it began anew instead of going on"
    starts = [log.read_text().count("Starting with JobEnv") for log in outputs.glob("multirun/.submitit/*/*_log.out")]
    assert sorted(starts) == [1, 2]


def test_a_worker_of_ray_that_is_killed_loses_nothing(photos: Path, tmp_path: Path, ray: str) -> None:
    words = ["hydra/launcher=ray_cluster", f"hydra.launcher.ray.init.address='{ray}'"]
    words += ["hydra.launcher.ray.remote.num_gpus=0", "hydra.launcher.ray.remote.num_cpus=1"]
    outputs = tmp_path / "outputs"
    with sweep(photos, outputs, *words) as command:
        folder, lines = half_way(outputs)
        os.kill(trainer_of(folder), signal.SIGKILL)
        assert command.wait(240) == 0  # Ray starts its run again, without a second command
    assert_each_ran_once(outputs)
    assert (folder / "metrics.jsonl").read_text().startswith(lines), "it began anew instead of going on"


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Ray cluster of a head, which runs nothing, and a worker with two places."""
    needs("ray", "hydra_ray_launcher")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default: other tests would leave its workers no time
    # some ports of Ray listen to everyone, whatever its address: let nobody else in
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # a short path: sockets lie beneath it
    address = folder / "ray_current_cluster"
    start = [f"{Path(sys.executable).parent}/ray", "start", "--block", "--object-store-memory=78643200"]
    # Ray replaces 127.0.0.1 by an outer address
    head = ["--head", "--node-ip-address=127.0.0.2", "--port=0", "--num-cpus=0", "--include-dashboard=false"]
    nodes = []
    with (folder / "log").open("w") as log:
        try:
            nodes.append(subprocess.Popen([*start, *head, f"--temp-dir={folder}"], stdout=log, stderr=log, cwd=folder))
            wait_for(lambda: bool(address.read_text()))
            worker = [f"--address={address.read_text()}", "--node-ip-address=127.0.0.3", "--num-cpus=2"]
            nodes.append(subprocess.Popen([*start, *worker], stdout=log, stderr=log, cwd=folder))
            yield address.read_text()
        finally:
            for node in reversed(nodes):
                node.terminate()  # it ends the processes that it started
            for node in nodes:
                node.wait(60)
            shutil.rmtree(folder, ignore_errors=True)


def sweep(photos: Path, outputs: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start a sweep over two seeds; its folder of outputs is relative to another folder than Ray's."""
    command = [sys.executable, "-m", "rootfree.train", "-m", *tiny(photos), "seed=0,1", *words]
    return subprocess.Popen([*command, f"trainer.epochs={EPOCHS}", f"outputs={outputs.name}"], cwd=outputs.parent)


def half_way(outputs: Path) -> tuple[Path, str]:
    """Wait for a run that has a checkpoint and is not through; return its folder and the metrics it has kept."""
    found: list[tuple[Path, str]] = []

    def some() -> bool:
        for file in outputs.glob("*/metrics.jsonl"):
            lines = file.read_text().splitlines(keepends=True)
            if 3 <= len(lines) < EPOCHS:
                found.append((file.parent, "".join(lines[:2])))
                return True
        return False

    wait_for(some)
    return found[0]


def trainer_of(folder: Path) -> int:
    """Return the process that has a run's metrics open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink() == folder / "metrics.jsonl":
                return int(link.parts[2])
    raise LookupError(f"nobody trains in {folder}")


def assert_each_ran_once(outputs: Path) -> None:
    summaries = [json.loads(file.read_text()) for file in outputs.glob("*/summary.json")]
    assert sorted((run["seed"], run["status"]) for run in summaries) == [(seed, "finished") for seed in range(2)]
    for run in summaries:
        lines = (outputs / run["run_id"] / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    assert len(list(outputs.glob("*/config.yaml"))) == 2
    assert not list(outputs.glob("*/failure.json"))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240  # Ray takes a minute and a half to begin on a busy machine
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            if condition():
                return
        time.sleep(0.02)
    raise TimeoutError
