"""Files that keep what took long to decode or compose."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rootfree.run.files import exclusive, write_atomically

PATIENCE = 3600  # seconds that a process waits for another one's download or cache


def source_key(files: list[Path], *settings: object) -> str:
    """Hash of the paths, sizes and times of files and of the settings they are read with: a cache's key."""
    stats = [(file, os.stat(file)) for file in map(str, files)]
    content = [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats], settings
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def cached(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return `make()`, kept in `file`: tensors and plain values only; written atomically, read back memory-mapped."""
    file = file.expanduser()
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(Path(f"{file}.lock"), PATIENCE):  # ranks of a run, or jobs of a sweep, wait for the first
            if not file.exists():
                value = make()
                write_atomically(file, lambda stream: torch.save(value, stream))
    try:
        return torch.load(file, weights_only=True, mmap=True)
    except RuntimeError as error:
        raise ValueError(f"{file} is damaged: remove it, it will be made again") from error
