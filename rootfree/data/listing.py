"""Folders of users: what lies there, without what systems leave behind, and a line on what is not read."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import cache as once
from pathlib import Path

LEFTOVERS = {"__macosx", "@eadir", "@recycle", "#recycle", "thumbs.db", "desktop.ini"}  # of macOS, NAS boxes, Windows


def is_leftover(name: str) -> bool:
    """Whether a file or folder is one that operating systems, notebooks and file servers leave behind."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted."""
    return sorted(path for path in folder.iterdir() if not is_leftover(path.name))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those below."""
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_leftover(name)]
        yield from (Path(where, name) for name in names if not is_leftover(name))


def kind_of(file: Path) -> str:
    """Say of what kind a file is, by its name."""
    return file.suffix.lower() or "without suffix"


def tell_unread(root: Path, others: Counter[str]) -> None:
    """Say once, by kind, what of a folder is not read."""
    if others:
        kinds = ", ".join(f"{count or ''} {kind}".strip() for kind, count in sorted(others.items()))
        _say(f"{root}: not read: {kinds}")


@once
def _say(text: str) -> None:
    print(text, flush=True)
