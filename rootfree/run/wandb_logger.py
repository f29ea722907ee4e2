"""W&B as a mirror of a run's folder: same keys, same run id; no failure of it ever stops a run."""

import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt


@cache
def installed() -> bool:
    """Whether W&B is there; if not, say so once."""
    if find_spec("wandb") is None:
        print(
            "W&B is not installed: runs are not mirrored (pip install wandb would; wandb.mode=disabled silences this)"
        )
        return False
    return True


class WandbLogger:
    """A W&B run that shadows one record; after the first failure, or with mode "disabled", it does nothing.

    Args:
        folder: of the run; W&B writes beneath it.
        config: the run's whole config, with its `run_id` and `preset`.
        mode: "offline" needs neither account nor network, "online" has both, "disabled" mirrors nothing.
        project: W&B's project.
        timeout: seconds to wait for W&B to start, and to end.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        mode: Literal["offline", "online", "disabled"],
        project: str,
        timeout: Annotated[float, Gt(0)] = 60,
    ) -> None:
        self._run: Any = None
        self.timeout = timeout
        if mode == "disabled" or (mode == "offline" and not installed()):
            return
        try:
            import wandb

            self._run = self._in_time(
                wandb.init,
                mode=mode,
                project=project,
                dir=folder.resolve(),  # W&B's service resolves a relative one from where it was started
                id=config["run_id"],
                name=config["run_id"],
                group=config["preset"],
                config=config,
                resume="allow",
                settings=wandb.Settings(
                    silent=True, console="off", x_disable_stats=True, x_disable_meta=True, init_timeout=timeout
                ),
            )
        except Exception as error:
            self._give_up(error)

    def log(self, metrics: dict[str, Any]) -> None:
        """Mirror one line of metrics.jsonl."""
        if self._run is not None:
            try:
                self._run.log(metrics, step=metrics["epoch"])  # a resumed run goes on where it was
            except Exception as error:
                self._give_up(error)

    def summarise(self, summary: dict[str, Any]) -> None:
        """Mirror summary.json."""
        if self._run is not None:
            try:
                self._run.summary.update(summary)
            except Exception as error:
                self._give_up(error)

    def close(self) -> None:
        """End the W&B run, so that the next one in this process is another."""
        if self._run is not None:
            try:
                self._in_time(self._run.finish)
            except Exception as error:
                self._give_up(error)

    def _in_time(self, function: Callable[..., Any], **arguments: Any) -> Any:
        """Call W&B in a thread that is left behind if it hangs."""
        done: list[Any] = []

        def call() -> None:
            try:
                done.append((function(**arguments), None))
            except Exception as error:
                done.append((None, error))

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(self.timeout)
        if not done:
            raise TimeoutError(f"no answer in {self.timeout:g} s")
        result, error = done[0]
        if error is not None:
            raise error
        return result

    def _give_up(self, error: Exception) -> None:
        """W&B raises errors of many kinds, none of which is worth a run: say so once, and go on without it."""
        if self._run is not None:
            self._run = None
            with suppress(
                Exception
            ):  # what is left of a service that was killed fills a log with tracebacks at the end
                import wandb

                self._in_time(wandb.teardown)
        warnings.warn(f"W&B does not work ({error}); the record goes on without it (wandb.mode=disabled silences this)",
                      stacklevel=2)  # fmt: skip
