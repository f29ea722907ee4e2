"""How files are written: whole or not at all, by one process at a time, whatever happens."""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock


def write_atomically(file: Path, content: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that, whatever happens, either the old or the new one is there, whole.

    Args:
        file: what to write; its folder exists.
        content: what is in it, or a function that writes it to a stream.

    Raises:
        OSError: it cannot be written; the old file stays as it was.
    """
    # a name of its own: two processes that write the same file do not write into each other's
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # the name, too, where the file system can: those of Windows cannot
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def exclusive(file: Path, timeout: float) -> Iterator[None]:
    """Let one process at a time do what is in this context.

    Args:
        file: a lock file; its folder exists.
        timeout: seconds to wait for another process.

    Raises:
        TimeoutError: another process took longer.
        OSError: the file system has no locks; the message says what to do.
    """
    lock = FileLock(file, timeout=timeout)
    try:
        lock.acquire()
    except TimeoutError:
        raise TimeoutError(f"{file} has been locked by another process for {timeout:g} s: is it stopped?") from None
    except OSError as error:
        raise OSError(f"{file.parent} lies on a file system that cannot lock files ({error.strerror}): choose another "
                      "folder, with outputs=... or dataset.cache=...") from error  # fmt: skip
    try:
        yield
    finally:
        lock.release()


def _umask() -> int:
    """Return the process's mask for the permissions of new files, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def json_bytes(content: dict[str, Any], indent: int | None = None) -> bytes:
    """Encode as JSON with a final newline; NaN and infinities, which JSON lacks, become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return (json.dumps(plain(content), indent=indent) + "\n").encode()


def read_json(file: Path) -> dict[str, Any] | None:
    """Return what a JSON file holds, or None if there is none."""
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
