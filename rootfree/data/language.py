"""`definitions` and `text_folder`: text, learned one character after the other.

A text is cut into windows of `context` characters; the target of each character is the one that follows it. The
symbols are the characters of the training part and one more for all that it lacks.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Lt

from rootfree.data.listing import files_below, kind_of, tell_unread
from rootfree.data.splits import PlainSplits, Split, fingerprint

UNKNOWN = "unknown"  # the symbol of what the training part lacks; a name longer than any character's
FILE = Path("data/_info/imagenet_synset_to_definition.txt")  # in timm's package


@dataclass(frozen=True)
class TextSplits(PlainSplits):
    """Windows of a text, (N, context) int64 each; `classes` are the symbols.

    Attributes:
        unknown: how many characters of val and of test the training part lacks.
    """

    unknown: tuple[int, int]

    @property
    def for_model(self) -> dict[str, int]:  # noqa: D102
        return {"vocab_size": len(self.classes), "context": self.train.inputs.shape[1]}

    @property
    def description(self) -> str:  # noqa: D102
        lacking = "".join(f", {count} characters of {name} are none of them"
                          for name, count in zip(("val", "test"), self.unknown, strict=True) if count)  # fmt: skip
        windows, context = self.train.inputs.shape
        return f"{self.name}: {windows} training windows of {context} characters, {len(self.classes)} symbols{lacking}"


def definitions(batch_size: Annotated[int, Gt(0)] = 64, context: Annotated[int, Gt(0)] = 64) -> TextSplits:
    """Embedded: 1.5 million characters, the English definitions of ImageNet's 21,844 words that timm's wheel holds.

    A tenth of the definitions is val and a tenth test, by a seeded draw; one that is there twice is taken once.

    Args:
        batch_size: windows per training step.
        context: characters per window.
    """
    spec = find_spec("timm")  # which takes 2 s to import
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("dataset=definitions reads a file of timm: pip install timm")
    rows = Path(spec.submodule_search_locations[0], FILE).read_text(encoding="utf-8").splitlines()
    lines = list(dict.fromkeys(row.partition("\t")[2] for row in rows))
    order, held = np.random.default_rng(0).permutation(len(lines)), len(lines) // 10
    parts = {"val": order[:held], "test": order[held : 2 * held], "train": order[2 * held :]}
    texts = {name: "".join(f"{lines[i]}\n" for i in part) for name, part in parts.items()}
    return windows("definitions", texts, batch_size, context)


def text_folder(
    root: str,
    name: str,
    batch_size: Annotated[int, Gt(0)] = 64,
    context: Annotated[int, Gt(0)] = 64,
    held_out: Annotated[float, Gt(0), Lt(0.5)] = 0.1,
) -> TextSplits:
    """All `*.txt` of a folder and of those below, in the order of their names, as one text.

    What else lies there is counted, by kind, in one line, but for what operating systems and notebooks leave behind.

    Args:
        root: the folder.
        name: what records and figures call the data; with the text's hash it identifies them, the path does not.
        batch_size: windows per training step.
        context: characters per window.
        held_out: share of the text, from its end, that is test; as much before it is val.

    Raises:
        FileNotFoundError: if `root` is no folder.
        ValueError: if it has no text, a file is not UTF-8, or a part is shorter than a window.
    """
    folder = Path(root).expanduser().resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"dataset.root = {root} is not a folder: give one that holds text files, *.txt")
    files = sorted(files_below(folder))
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    tell_unread(folder, Counter(kind_of(file) for file in files if file not in texts))
    text = "".join(_read(texts))
    if not text.strip():
        raise ValueError(f"dataset.root = {root} has no text: no file below it ends in .txt and holds a character")
    held = round(held_out * len(text))
    middle, end = len(text) - 2 * held, len(text) - held
    return windows(name, {"train": text[:middle], "val": text[middle:end], "test": text[end:]}, batch_size, context)


def _read(files: Sequence[Path]) -> list[str]:
    texts, broken = [], []
    for file in files:
        try:
            texts.append(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            broken.append(f"{file} (byte {error.start})")
    if broken:
        raise ValueError(f"not UTF-8: {', '.join(broken)}; convert what is named, or take it away")
    return texts


def windows(name: str, texts: dict[str, str], batch_size: int, context: int) -> TextSplits:
    """Cut train, val and test into windows; what is left at a part's end, less than a window, is not read.

    Raises:
        ValueError: if a part is shorter than a window and the character after it.
    """
    for part, text in texts.items():
        if len(text) <= context:
            raise ValueError(f"dataset.context = {context} is not allowed: {part} of {name} has {len(text)} "
                             f"characters, so it is {max(len(text) - 1, 0)} at most")  # fmt: skip
    codes = {part: np.frombuffer(text.encode("utf-32-le"), np.uint32) for part, text in texts.items()}
    known = np.unique(codes["train"])
    splits, unknown = {}, {}
    for part, code in codes.items():
        symbols = np.searchsorted(known, code)
        lacking = ~np.isin(code, known)
        symbols[lacking], unknown[part] = len(known), int(lacking.sum())
        ids, count = torch.from_numpy(symbols), (len(code) - 1) // context
        splits[part] = Split(*(ids[first : first + count * context].view(count, context) for first in (0, 1)))
    classes = (*map(chr, known.tolist()), UNKNOWN)
    return TextSplits(name, classes, **splits, fingerprint=fingerprint(splits, classes), batch_size=batch_size,
                      unknown=(unknown["val"], unknown["test"]))  # fmt: skip
