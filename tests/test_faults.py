"""What can go wrong while a run is trained, with real processes, files and signals: nothing is lost or done twice."""

import errno
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from conftest import tiny
from filelock import FileLock
from forked import Forked
from test_distributed import Double, pair
from test_trainer import ROOT, Entry, json_of, lines, untimed, wait_for
from torch import Tensor, nn

from rootfree.run import signals
from rootfree.run.files import write_atomically
from rootfree.run.lock import RunLock, holder_of
from rootfree.run.record import Record
from rootfree.run.status import status_of
from rootfree.run.wandb_logger import WandbLogger
from rootfree.trainer import evaluate

DOUBLE = ["model._target_=test_distributed.Double", "~model.stem_stride", "optimizer.lr=0.01"]


@pytest.fixture(autouse=True)
def nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was asked to stop stays so; the tests share one."""
    monkeypatch.setattr(signals, "_requested", None)


def start(photos: Path, outputs: Path, *words: str) -> Forked:
    return Forked("train", *tiny(photos), *words, f"outputs={outputs}")


def ends(entry: Entry, *words: str) -> int:
    """The exit code of a command that does not end well."""
    with pytest.raises(SystemExit) as end:
        entry(*words)
    return end.value.code


def the_folder(outputs: Path) -> Path:
    (folder,) = (file.parent for file in outputs.glob("*/config.yaml"))
    return folder


LONG = ["trainer.epochs=15", "optimizer=rf_rmsprop", "optimizer.lr=0.01", "record.checkpoint_minutes=0.00001"]


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and metrics of the long run, trained in one go."""
    outputs = tmp_path_factory.mktemp("calm")
    assert start(photos, outputs, *LONG).wait() == 0
    folder = the_folder(outputs)
    return untimed(json.loads((folder / "summary.json").read_text())), lines(folder / "metrics.jsonl")


def as_undisturbed(folder: Path, undisturbed: tuple[dict[str, Any], list[dict[str, Any]]]) -> bool:
    summary = untimed(json.loads((folder / "summary.json").read_text()))
    return (summary, lines(folder / "metrics.jsonl")) == undisturbed


def test_killed_at_a_random_step_another_process_ends_it_bit_for_bit(
    entry: Entry, photos: Path, tmp_path: Path, undisturbed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "outputs"
    with start(photos, outputs, *LONG) as run:
        wait_for(lambda: (the_folder(outputs) / "metrics.jsonl").read_text().count("\n") >= 2)
        os.kill(run.pid, signal.SIGSTOP)  # a process that sleeps still lives
        entry(*LONG)  # two processes, one run: the other has it
        assert "already running elsewhere" in capsys.readouterr().out
        assert status_of(the_folder(outputs)) == "running"
        os.kill(run.pid, signal.SIGCONT)
        time.sleep(random.random() / 10)
        run.kill()
    folder = the_folder(outputs)
    assert not (folder / "summary.json").exists()
    assert json.loads((folder / "lock").read_text())["pid"] == run.pid  # left behind, and no obstacle
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 99, "half a li')
    entry(*LONG)
    assert as_undisturbed(folder, undisturbed)
    assert not (folder / "lock").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_is_saved_and_goes_on(
    entry: Entry, photos: Path, tmp_path: Path, undisturbed: Any, number: signal.Signals
) -> None:
    outputs = tmp_path / "outputs"
    with start(photos, outputs, *LONG) as run:
        wait_for(lambda: (the_folder(outputs) / "metrics.jsonl").read_text().count("\n") >= 2)
        os.kill(run.pid, number)
        assert run.wait(90) == signals.REQUEUE
    folder = the_folder(outputs)
    assert status_of(folder) == "interrupted"
    assert number.name in json.loads((folder / "failure.json").read_text())["message"]
    entry(*LONG)
    assert as_undisturbed(folder, undisturbed)
    assert not (folder / "failure.json").exists()


def test_asked_to_stop_in_an_evaluation(
    entry: Entry, tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def asked(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) in (3, 6):  # on clean training images, and on val
            os.kill(os.getpid(), signal.SIGUSR2)
        return evaluate(*arguments)

    monkeypatch.setattr("rootfree.trainer.evaluate", asked)
    for _ in range(2):
        assert ends(entry, *LONG) == signals.REQUEUE
        monkeypatch.setattr(signals, "_requested", None)
    assert len(calls) == 6
    entry(*LONG)
    assert as_undisturbed(the_folder(tmp_path / "outputs"), undisturbed)


def test_asked_to_stop_in_an_evaluation_with_other_weights_than_in_training(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To training and back again rounds the weights of a schedule-free method."""
    words = ["optimizer._target_=test_faults.Rounding", "~optimizer.weight_decay", "~optimizer.momentum"]
    (calm,) = json_of(entry, *words, "outputs=elsewhere")
    calls: list[Any] = []

    def asked(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGUSR2)
        return evaluate(*arguments)

    monkeypatch.setattr("rootfree.trainer.evaluate", asked)
    assert ends(entry, *words) == signals.REQUEUE
    monkeypatch.setattr(signals, "_requested", None)
    (run,) = entry(*words)
    assert run["weights"] == calm["weights"]


class Rounding(torch.optim.SGD):
    """Evaluates a third of its weights, so that there and back again is not the same bits."""

    def train(self) -> None:
        self._scale(3.0, "train")

    def eval(self) -> None:
        self._scale(1 / 3, "eval")

    @torch.no_grad()
    def _scale(self, factor: float, mode: str) -> None:
        for group in self.param_groups:
            if group.get("mode", "train") != mode:
                for param in group["params"]:
                    param.mul_(factor)
            group["mode"] = mode


def test_a_second_ctrl_c_stops_at_once_without_damage(
    entry: Entry, tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Record.save_checkpoint
    saves = []

    def impatient(self: Record, state: dict[str, Any]) -> None:
        saves.append(state)
        if len(saves) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        if len(saves) == 6:  # the save that the first one asked for
            os.kill(os.getpid(), signal.SIGINT)
        real(self, state)

    monkeypatch.setattr(Record, "save_checkpoint", impatient)
    assert ends(entry, *LONG) == 130
    monkeypatch.setattr(signals, "_requested", None)
    entry(*LONG)
    assert as_undisturbed(the_folder(tmp_path / "outputs"), undisturbed)


def test_killed_between_writing_a_checkpoint_and_naming_it(
    entry: Entry, photos: Path, tmp_path: Path, undisturbed: Any
) -> None:
    code = """
import os, signal
from pathlib import Path
from rootfree import train
real, seen = Path.replace, []
def replace(self, target):
    seen.append(target)
    if str(target).endswith("checkpoint.pt") and sum(str(t).endswith("checkpoint.pt") for t in seen) == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)
Path.replace = replace
train.main()
"""
    with Forked(*tiny(photos), *LONG, f"outputs={tmp_path}/outputs", code=code) as run:
        assert run.wait() == -signal.SIGKILL
    folder = the_folder(tmp_path / "outputs")
    assert list(folder.glob(".checkpoint.pt.*.part"))
    entry(*LONG)
    assert as_undisturbed(folder, undisturbed)


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (calm,) = entry("trainer.epochs=3")
    folder = tmp_path / "outputs" / calm["run_id"]
    (folder / "summary.json").unlink()
    real, saves = Record.save_checkpoint, []

    def full(self: Record, state: dict[str, Any]) -> None:
        saves.append(state)
        with no_more_than(100_000 if len(saves) == 2 else resource.RLIM_INFINITY):
            real(self, state)

    monkeypatch.setattr(Record, "save_checkpoint", full)
    with pytest.raises((OSError, RuntimeError, SystemExit)):
        entry("trainer.epochs=3")
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["epoch"] == 1
    assert (status_of(folder), (folder / "summary.json").exists()) == ("failed", False)
    (again,) = entry("trainer.epochs=3")
    assert untimed(again) == untimed(calm)


def test_metrics_that_cannot_be_written_end_the_run(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Record.log

    def full(self: Record, metrics: dict[str, Any]) -> None:
        with no_more_than(10):
            real(self, metrics)

    monkeypatch.setattr(Record, "log", full)
    assert ends(entry) == 2
    assert "File too large" in capsys.readouterr().err
    assert status_of(the_folder(tmp_path / "outputs")) == "failed"


def unfinished(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of two epochs that was interrupted after the first."""
    real = Record.save_checkpoint

    def interrupted(self: Record, state: dict[str, Any]) -> None:
        real(self, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Record, "save_checkpoint", interrupted)
        assert ends(entry) == 130
    return the_folder(tmp_path / "outputs")


@pytest.mark.parametrize("damage", ["truncated", "empty", "pickled callable", "metrics lost"])
def test_a_damaged_checkpoint_is_an_error_and_no_silent_restart(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    folder = unfinished(entry, tmp_path, monkeypatch)
    file = folder / "checkpoint.pt"
    if damage == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "empty":
        os.truncate(file, 0)
    elif damage == "pickled callable":
        torch.save({"metrics_bytes": 0, "model": print}, file)
    else:
        os.truncate(folder / "metrics.jsonl", 3)
    before = file.read_bytes()
    assert ends(entry) == 2
    error = capsys.readouterr().err
    assert f"remove {folder.relative_to(tmp_path)} to start again" in error
    assert file.read_bytes() == before
    assert not (folder / "lock").exists()


def test_going_on_with_other_code_or_another_torch_is_on_record(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = unfinished(entry, tmp_path, monkeypatch) / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    state["code"]["versions"]["torch"] = "1.0"
    torch.save(state, file)
    with pytest.warns(UserWarning, match="goes on with another versions than it began with"):
        (summary,) = entry()
    ((earlier),) = summary["earlier_code"]
    assert (earlier["versions"]["torch"], earlier["until_step"]) == ("1.0", 7)


class Spare(Double):
    """A finite loss, and a weight that is not."""

    def __init__(self, **sizes: int) -> None:
        super().__init__(**sizes)
        self.spare = nn.Parameter(torch.tensor(torch.nan))


class Greedy(Double):
    """Asks for more memory than there is, once it is trained."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.empty(2**50) if self.training else super().forward(images)


def test_weights_that_are_not_finite_are_a_divergence(entry: Entry) -> None:
    (summary,) = entry("model._target_=test_faults.Spare", *DOUBLE[1:])
    assert (summary["status"], summary["epochs"]) == ("diverged", 1)
    assert summary["train_loss"] is not None


def test_a_signal_does_not_keep_a_failed_run_from_telling_why(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher sends SIGTERM to the processes that are left as soon as one of them died."""
    real = Record.fail

    def fail_slowly(self: Record, error: BaseException) -> None:
        signal.raise_signal(signal.SIGTERM)
        real(self, error)

    monkeypatch.setattr(Record, "fail", fail_slowly)
    before = signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("the signal ended the process"))
    try:
        with pytest.raises(RuntimeError, match="allocate memory"):
            entry("model._target_=test_faults.Greedy", *DOUBLE[1:])
    finally:
        signal.signal(signal.SIGTERM, before)
    folder = the_folder(tmp_path / "outputs")
    assert "allocate memory" in json.loads((folder / "failure.json").read_text())["message"]


def test_no_memory_is_a_failure_that_is_tried_again_a_few_times(
    entry: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model._target_=test_faults.Greedy", *DOUBLE[1:], "record.max_attempts=2"]
    for attempt in (1, 2):
        with pytest.raises(RuntimeError, match="allocate memory"):
            entry(*words)
        failure = json.loads((the_folder(tmp_path / "outputs") / "failure.json").read_text())
        assert (failure["status"], failure["attempts"]) == ("failed", attempt)
        assert failure["message"].startswith("out of memory")
    capsys.readouterr()
    assert entry(*words) == []
    assert "failed 2 times (out of memory" in capsys.readouterr().out


def test_a_worker_that_is_killed_takes_no_other_run_with_it(photos: Path, tmp_path: Path) -> None:
    words = [
        "hydra.mode=MULTIRUN",
        "seed=range(3)",
        "trainer.epochs=12",
        "hydra/launcher=joblib",
    ]
    with start(photos, tmp_path, *words, "hydra.launcher.n_jobs=2") as sweep:
        wait_for(lambda: len(list(tmp_path.glob("*/metrics.jsonl"))) == 2)
        victim = json.loads(next(tmp_path.glob("*/lock")).read_text())["pid"]
        os.kill(victim, signal.SIGKILL)
        assert sweep.wait(240) == 1
    ended = {file.parent.name: file.stat().st_mtime_ns for file in tmp_path.glob("*/summary.json")}
    assert len(ended) < 3
    with start(photos, tmp_path, *words, "hydra.launcher.n_jobs=1") as sweep:
        assert sweep.wait(240) == 0
    now = {file.parent.name: file.stat().st_mtime_ns for file in tmp_path.glob("*/summary.json")}
    assert len(now) == 3
    assert ended.items() <= now.items()  # what had ended is not done twice


def test_several_processes_complete_a_sweep_together(photos: Path, tmp_path: Path) -> None:
    """Their number is a part of what a run with batch statistics is, when runs are named and when they are trained."""
    words = [*tiny(photos), "seed=0,1", "trainer.epochs=1", "device=cpu", f"outputs={tmp_path}"]
    for process in pair("train", "-m", *words, output=tmp_path / "said"):
        with process:
            assert process.wait() == 0, (tmp_path / "said").read_text()
    assert (tmp_path / "said").read_text().count("2 runs: 2 finished") == 1, "one of them speaks"
    assert len(list(tmp_path.glob("*/config.yaml"))) == len(list(tmp_path.glob("*/summary.json"))) == 2


@pytest.fixture
def guard(tmp_path: Path) -> Path:
    return tmp_path / "locks.lock"


def test_a_lock_has_one_holder(tmp_path: Path, guard: Path) -> None:
    locks = [RunLock(tmp_path / "lock", guard, timeout=60) for _ in range(8)]
    won: list[bool] = []
    threads = [threading.Thread(target=lambda lock=lock: won.append(lock.acquire())) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    holder = holder_of(tmp_path / "lock")
    assert holder is not None
    assert holder["pid"] == os.getpid()
    assert {"host", "since", "heartbeat"} <= set(holder)


def test_a_lock_that_another_process_keeps_is_named_after_a_while(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rootfree.run.lock.GUARD_SECONDS", 0.1)
    (tmp_path / "outputs").mkdir()
    with FileLock(tmp_path / "outputs/locks.lock", is_singleton=False):
        assert ends(entry) == 2
    assert "outputs/locks.lock has been locked by another process for 0.1 s" in capsys.readouterr().err


def test_a_disk_that_is_full_for_a_moment_costs_no_lock(
    tmp_path: Path, guard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, failures = RunLock(tmp_path / "lock", guard, timeout=0.5), []
    assert lock.acquire()

    def full(file: Path, content: Any) -> None:
        if not failures:
            failures.append(file)
            raise OSError(errno.ENOSPC, "No space left on device")
        write_atomically(file, content)

    monkeypatch.setattr("rootfree.run.lock.write_atomically", full)
    time.sleep(1)
    assert failures
    assert not RunLock(tmp_path / "lock", guard, timeout=0.5).acquire()
    monkeypatch.setattr("rootfree.run.lock.read_json", Mock(side_effect=PermissionError))
    assert lock.is_ours()  # nobody said that it is not
    monkeypatch.undo()
    lock.release()
    assert not (tmp_path / "lock").exists()


def test_a_file_system_without_locks_is_named_with_the_remedy(
    entry: Entry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(self: FileLock, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", no_locks)
    assert ends(entry) == 2
    assert (
        "outputs lies on a file system that cannot lock files (No locks available): choose" in capsys.readouterr().err
    )


def test_a_folder_that_cannot_be_synced_holds_whole_files_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def no_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", no_folders)
    write_atomically(tmp_path / "file", "whole")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "whole")]


def change(file: Path, age: float, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    os.utime(file, (time.time() - age,) * 2)


@pytest.mark.parametrize(
    ("age", "values", "taken"),
    [
        (0, {"machine": "elsewhere"}, False),  # alive there, for all we know
        (100, {"machine": "elsewhere"}, True),  # silent for longer than the timeout
        (-3600, {"machine": "elsewhere"}, False),  # a clock was set back
        (0, {"pid": 2**22 + 1}, True),  # gone
        (0, {"process_started": 1}, True),  # another process has its number
    ],
)
def test_a_stale_lock_is_taken_over_and_a_live_one_is_not(
    tmp_path: Path, guard: Path, age: float, values: dict[str, Any], taken: bool
) -> None:
    first, second = (RunLock(tmp_path / "lock", guard, timeout=60) for _ in range(2))
    assert first.acquire()
    change(tmp_path / "lock", age, **values)
    assert second.acquire() == taken
    first.release()
    assert (tmp_path / "lock").exists() == taken  # a lock that was lost is not the first one's to give up


def test_a_holder_gives_signs_of_life_and_notices_that_it_lost_its_run(tmp_path: Path, guard: Path) -> None:
    lock = RunLock(tmp_path / "lock", guard, timeout=0.3)
    assert lock.acquire()
    time.sleep(0.6)
    assert not RunLock(tmp_path / "lock", guard, timeout=0.3).acquire()
    change(tmp_path / "lock", 0, token="another's")
    assert not lock.is_ours()


def test_who_lost_a_run_writes_nothing_more(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Record.log

    def lose(self: Record, metrics: dict[str, Any]) -> None:
        real(self, metrics)
        change(self.folder / "lock", 0, token="another's")

    monkeypatch.setattr(Record, "log", lose)
    assert ends(entry) == signals.REQUEUE
    folder = the_folder(tmp_path / "outputs")
    assert len(lines(folder / "metrics.jsonl")) == 1
    assert not (folder / "failure.json").exists()


def hanging(**_: Any) -> Any:
    class Hangs:
        def __getattr__(self, name: str) -> Callable[..., None]:
            return (lambda *_, **__: time.sleep(1000)) if name == "finish" else (lambda *_, **__: None)

    return Hangs()


def test_a_wandb_that_hangs_at_the_end_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")

    monkeypatch.setattr(wandb, "init", hanging)
    logger = WandbLogger(tmp_path, {"run_id": "a", "preset": None}, mode="offline", project="x", timeout=0.2)
    with pytest.warns(UserWarning, match="no answer in 0.2 s"):
        logger.close()


def mirrored(file: Path) -> Iterator[bytes]:
    """The messages of an offline W&B file: a log in LevelDB's format (blocks of 32 KiB) behind a header of 7 bytes."""
    content, at, message = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if (room := -at % 2**15) and room < 7:  # the end of a block, too short for a record
            at += room
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        message += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of its parts
            yield message
            message = b""


def test_wandb_can_read_what_was_mirrored_offline(entry: Entry, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record as Message

    (summary,) = entry("wandb.mode=offline")
    (file,) = (tmp_path / "outputs" / summary["run_id"]).glob("wandb/offline-run-*/*.wandb")

    def messages_of() -> list[Any]:
        return [Message.FromString(message) for message in mirrored(file)]

    # W&B's service writes the file, and on a busy machine a little later
    wait_for(
        lambda: bool(found := messages_of()) and found[-1].WhichOneof("record_type") in ("exit", "final", "footer")
    )
    messages = messages_of()
    runs = [message.run for message in messages if message.WhichOneof("record_type") == "run"]
    steps = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in message.history.item}
        for message in messages
        if message.WhichOneof("record_type") == "history"
    ]
    assert runs[0].run_id == summary["run_id"]
    assert [step["epoch"] for step in steps] == [1, 2]
    assert steps[-1]["val_acc"] == summary["val_acc"]


def test_folders_with_spaces_and_letters_of_any_kind(entry: Entry, tmp_path: Path) -> None:
    entry("outputs='läufe und mehr/αβγ'", "trainer.epochs=1")
    assert len(list(tmp_path.glob("läufe und mehr/αβγ/*/summary.json"))) == 1


def test_results_that_cannot_be_written_are_named_and_nothing_is_lost(entry: Entry, tmp_path: Path) -> None:
    entry("trainer.epochs=1")
    closed = tmp_path / "results"
    closed.write_text("not a folder, which for root is what a read-only one is for others")
    line = [sys.executable, "-m", "rootfree", "collect", str(tmp_path / "outputs"), "--into", str(closed), "--merge"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("collect: ")
    assert str(closed) in done.stderr
    assert closed.is_file()
    assert len(list(tmp_path.glob("outputs/*/summary.json"))) == 1
