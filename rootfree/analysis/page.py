"""What pages and Markdown files are made of: templates that escape what they show, tables from data frames.

Words, HTML and CSS stand in `templates/`. A cell of a table is a text, or a `Link` to a place of the report;
where a frame's index is called `id`, it names the rows.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from rootfree.analysis.style import inline, label


class Link(NamedTuple):
    """A cell of a table that leads somewhere."""

    text: str
    href: str

    def __str__(self) -> str:
        """What is read."""
        return self.text


def safe_name(text: str) -> str:
    """A name for a file or a place of a page, whatever characters users choose; what is cut, or lost, is told apart."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    lossy = len(name) > 80 or not text.isascii() or not name
    return f"{name[:70]}-{crc32(text.encode('utf-8', 'replace')):08x}" if lossy else name


def p_value(p: float) -> str:
    """A p in words."""
    return "p below 0.001" if p < 0.001 else f"p {p:.3f}"


def render(template: str, **values: Any) -> str:
    """Fill a template with values.

    Raises:
        jinja2.UndefinedError: A template asks for a value that is not given.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: str(name).endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    reader = MarkdownIt("commonmark", {"html": False})
    made.filters["prose"] = lambda text: Markup(reader.render(str(text)))
    made.filters["words"] = lambda text: Markup(reader.renderInline(str(text)))
    made.filters["drawn"] = lambda drawing: Markup(inline(drawing))
    made.filters |= {"cell": _cell, "rows": _rows, "place": safe_name, "label": label, "p": p_value}
    return made


def _rows(frame: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """The name of each row, empty where it has none, and its cells by column."""
    names = [str(name) if frame.index.name == "id" else "" for name in frame.index]
    return list(zip(names, frame.to_dict("records"), strict=True))


def _cell(text: Any) -> str:
    """A text as Markdown shows it, within a table, too: nothing in it is markup."""
    shown = re.sub(r"([\\`*\[\]|~$]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9]))", r"\\\1", " ".join(str(text).split()))
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
