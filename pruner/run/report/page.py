"""A page: one HTML file without anything from outside, readable dark or light, wide or narrow."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from lookup_tables.storage.files import write_whole

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1, p, figcaption { overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #8884;
  white-space: nowrap; }
th:first-child, td:first-child, td:has(.bar) { text-align: left; }
pre { padding: .75rem; background: #8882; white-space: pre-wrap; overflow-wrap: anywhere; }
.bar { display: inline-block; height: .7em; background: #4a8; }
.was { background: #8886; }
.scroll { overflow-x: auto; }
.pictures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
figure { margin: 0; max-width: 40rem; }
figcaption { font-weight: 600; }
svg { width: 100%; height: auto; }
img { max-width: 100%; }
"""


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """Write a whole page of parts that are HTML already."""
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    body = "\n".join((f"<h1>{html.escape(title)}</h1>", *parts))
    write_whole(
        path,
        f"<!doctype html><html lang='en'><head>{head}<title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n",
    )


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def code(text: str) -> str:
    """A command, as it would be typed."""
    return f"<pre><code>{html.escape(text)}</code></pre>"


def link(text: str, to: str) -> str:
    """A link to another page."""
    return f"<a href='{html.escape(to, quote=True)}'>{html.escape(text)}</a>"


def pictures(named: dict[str, str]) -> str:
    """Caption → <svg>, side by side where there is room."""
    figures = "".join(
        f"<figure><figcaption>{html.escape(caption)}</figcaption>{svg}</figure>"
        for caption, svg in named.items()
    )
    return f"<div class='pictures'>{figures}</div>"


def png(content: bytes, said: str) -> str:
    """A picture of pixels; `said` is what a screen reader reads out."""
    data = base64.b64encode(content).decode()
    return f"<img alt='{html.escape(said, quote=True)}' src='data:image/png;base64,{data}'>"


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells of plain text."""
    return table_of_html(names, ([html.escape(cell) for cell in row] for row in rows))


def table_of_html(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells that are HTML already; a table wider than the page scrolls by itself."""
    head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='scroll'><table><tr>{head}</tr>{body}</table></div>"
