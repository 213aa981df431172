"""The elements that a page is put together from; every text that comes in is escaped."""

import html
from collections.abc import Sequence
from typing import NamedTuple


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
      text: what stands in it.
      key: what its column is sorted by; None: the text.
      href: where the text leads, within the page; '': nowhere.
      tone: a class of the style sheet, such as the status of a run.
    """

    text: str
    key: float | None = None
    href: str = ""
    tone: str = ""


def number(value: float | None, form: str = ".4f") -> Cell:
    """A cell of a number.

    Args:
      value: None where there is none; it is sorted last.
      form: how it is written.

    Returns:
      The cell.

    Example:
      >>> number(0.25, ".1%").text, number(None).text
      ('25.0%', '–')
    """
    return Cell("–") if value is None else Cell(format(value, form), float(value))


def table(name: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table whose columns can be sorted; wider than the window, it scrolls by itself.

    Args:
      name: of the table, for those who do not see it.
      head: a name for each column.
      rows: cells, one a column; the first of each heads it.

    Returns:
      The element.
    """
    columns = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "".join(f"<tr>{_row(row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}"><table class="sortable">'
        f"<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(cells: Sequence[Cell]) -> str:
    head, *rest = cells
    return f'<th scope="row"{_attributes(head)}>{_content(head)}</th>' + "".join(
        f"<td{_attributes(cell)}>{_content(cell)}</td>" for cell in rest
    )


def _attributes(cell: Cell) -> str:
    return "" if cell.key is None else f' data-key="{cell.key!r}" class="number"'


def _content(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.tone:
        text = f'<span class="tone {escape(cell.tone)}">{text}</span>'
    return f'<a href="#{escape(cell.href)}">{text}</a>' if cell.href else text


def figure(svg: str, caption: str) -> str:
    """A picture with what it shows.

    Args:
      svg: an ``<svg>`` element of our own.
      caption: below it.

    Returns:
      The element.
    """
    return f'<figure><div class="scroll">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>'


def folded(summary: str, body: str, identity: str = "") -> str:
    """A part that opens on a click.

    Args:
      summary: what is always seen.
      body: elements.
      identity: by which the page leads here; '' where it does not.

    Returns:
      The element.
    """
    name = f' id="{escape(identity)}"' if identity else ""
    return f"<details{name}><summary>{escape(summary)}</summary>{body}</details>"


def code(text: str) -> str:
    """A block of text as it is.

    Example:
      >>> code("a < b")
      '<pre tabindex="0">a &lt; b</pre>'
    """
    return f'<pre tabindex="0">{escape(text)}</pre>'


def escape(text: str) -> str:
    """Text as HTML writes it, in attributes too."""
    return html.escape(str(text), quote=True)
