"""A report as a list of blocks, and the two ways to write it: Markdown, and one HTML file that needs nothing else.

Text may contain `code` in backticks, line breaks, and [links](#anchor) to what is in the report; on the page everything
else is escaped.
"""

import re
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import get_args
from zlib import crc32

from rootfree.analysis.statistics import Verdict
from rootfree.analysis.style import INK

VERDICTS = get_args(Verdict)
LINK = re.compile(r"\[([^\]]*)\]\(#([^)]*)\)")


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the page's title."""

    level: int
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; on a narrow screen every row becomes a card."""

    header: list[str]
    rows: list[list[str]]
    caption: str
    anchors: list[str] = field(default_factory=list)  # of the rows


@dataclass(frozen=True)
class Picture:
    """A figure: its files are `stem.png` and `stem.svg`, relative to the report."""

    stem: Path
    svg: str
    caption: str


@dataclass(frozen=True)
class Details:
    """Blocks that stay folded until asked for."""

    summary: str
    blocks: "list[Block]"


Block = Heading | Text | Table | Picture | Details


def markdown(blocks: list[Block]) -> str:
    """The blocks as Markdown with figures beside it."""
    return "\n".join(_markdown(block) for block in blocks)


def html(blocks: list[Block], title: str) -> str:
    """The blocks as one self-contained page."""
    body = "\n".join(_html(block) for block in blocks)
    # Neighbouring figures share a grid: side by side where there is room.
    body = re.sub(r"(?:<figure .*?</figure>\s*)+", r'<div class="figures">\n\g<0></div>\n', body, flags=re.S)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text, anchor):
            return f"{_target(anchor)}\n\n{'#' * level} {text}\n".lstrip()
        case Text(text):
            return "<br>\n".join(text.splitlines()) + "\n"
        case Table(header, rows, caption, anchors):
            targets = map(_target, anchors or [""] * len(rows))
            named = ([f"{target}{row[0]}", *row[1:]] for target, row in zip(targets, rows, strict=True))
            lines = [header, ["---"] * len(header), *named]
            escaped = [" | ".join(cell.replace("|", r"\|").replace("\n", "<br>") for cell in line) for line in lines]
            return "\n".join(f"| {line} |" for line in escaped) + f"\n\n{caption}\n"
        case Picture(stem, _, caption):
            return f"![{caption.split('. ')[0]}]({stem.as_posix()}.png)\n\n*{plain(caption)}*\n"
        case Details(summary, blocks):
            return f"<details><summary>{escape(summary)}</summary>\n\n{markdown(blocks)}\n</details>\n"


def _html(block: Block) -> str:
    match block:
        case Heading(level, text, anchor):
            return f"<h{level}{_id(anchor)}>{_inline(text)}</h{level}>"
        case Text(text):
            return f"<p>{_inline(text)}</p>"
        case Table(header, rows, caption, anchors):
            names = anchors or [""] * len(rows)
            head = "".join(f'<th scope="col">{_inline(name)}</th>' for name in header)
            lines = zip(names, rows, strict=True)
            body = "\n".join(f"<tr{_id(name)}>{''.join(map(_cell, header, row))}</tr>" for name, row in lines)
            top = f"<caption>{_inline(caption)}</caption>\n<thead><tr>{head}</tr></thead>"
            return f"<table>\n{top}\n<tbody>\n{body}\n</tbody>\n</table>"
        case Picture(_, svg, caption):
            # The page's own text colour replaces the ink; ids are only unique within one file.
            drawing = svg[svg.index("<svg") :].replace(INK, "currentColor")
            drawing = re.sub(r'(width|height)="[\d.]+pt"', "", drawing, count=2)
            prefix = re.sub(r"[^a-z0-9]", "-", block.stem.name.lower())
            short = f"f{crc32(prefix.encode()):08x}"  # every mark of a figure repeats it
            drawing = re.sub(r'( id="|url\(#|xlink:href="#)', rf"\g<1>{short}-", drawing)
            drawing = drawing.replace("<svg", '<svg role="img"', 1)
            return f'<figure id="{prefix}">\n{drawing}\n<figcaption>{_inline(caption)}</figcaption>\n</figure>'
        case Details(summary, blocks):
            inside = "\n".join(map(_html, blocks))
            return f"<details>\n<summary>{_inline(summary)}</summary>\n{inside}\n</details>"


def _cell(name: str, text: str) -> str:
    word = plain(text)
    style = f' class="verdict {word.replace(" ", "-")}"' if word in VERDICTS else ""
    empty = ' class="empty"' if word == "-" else ""
    return f'<td data-name="{escape(name)}"{empty}><span{style}>{_inline(text)}</span></td>'


def plain(text: str) -> str:
    """Text without its links."""
    return LINK.sub(r"\1", text)


def anchor(*parts: object) -> str:
    """A name that a link can point to."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(map(str, parts)).lower()).strip("-")


def _target(name: str) -> str:
    return f'<a id="{name}"></a>' if name else ""


def _id(name: str) -> str:
    return f' id="{name}"' if name else ""


def _inline(text: str) -> str:
    linked = LINK.sub(r'<a href="#\2">\1</a>', escape(text)) if "](#" in text else escape(text)
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", linked).replace("\n", "<br>")


CSS = """
:root { color-scheme: light dark; --text: #1f2328; --soft: #59636e; --page: #fff; --line: #d1d9e0; --band: #f6f8fa;
  --link: #0550ae;  --good: #116329; --bad: #a40e26; --open: #7a4d00; }
@media screen and (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --soft: #9aa4af; --page: #0d1117; --line: #30363d; --band: #161b22;
    --link: #79b8ff;    --good: #56d364; --bad: #ff8182; --open: #e3b341; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 68rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { line-height: 1.2; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; line-height: 1.3; }
p { max-width: 46rem; }
table { border-collapse: collapse; width: 100%; margin: 1.2rem 0; font-size: .9rem; }
caption { caption-side: bottom; text-align: left; color: var(--soft); padding-top: .5rem; font-size: .85rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
code { font: .85em ui-monospace, monospace; background: var(--band); padding: .1em .3em; border-radius: 4px;
  overflow-wrap: anywhere; }
.verdict { font-weight: 600; white-space: nowrap; color: var(--open); }
.verdict a { color: inherit; }
.supported { color: var(--good); }
.refuted { color: var(--bad); }
.no-data { color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem 2.5rem;
  margin: 1.5rem 0; }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 32rem; }
figcaption { color: var(--soft); font-size: .85rem; }
a { color: var(--link); text-underline-offset: .15em; }
tr:target, h2:target { background: var(--band); }
.lead { font-size: 1.1rem; }
details { margin: 1rem 0; border-top: 1px solid var(--line); padding-top: .5rem; }
summary { cursor: pointer; font-weight: 600; }
@media screen and (max-width: 46rem) {
  thead { display: none; }
  table, tbody, tr, caption { display: block; }
  tr { padding: .6rem 0; border-bottom: 1px solid var(--line); }
  td { display: grid; grid-template-columns: 7.5rem minmax(0, 1fr); gap: .6rem; border: 0; padding: .15rem 0; }
  td:first-child > span { font-weight: 600; }
  td.empty { display: none; }
  td::before { content: attr(data-name); color: var(--soft); }
}
@media print {
  main { max-width: none; padding: 0; }
  html { font-size: 9pt; }
  body { font-size: 1rem; }
  .figures { grid-template-columns: 1fr 1fr; }
  figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
