"""The one style of all pictures, and how they are begun, finished and written: PNG, SVG, PDF, or inside a page."""

import io
import logging
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from experiments.errors import ConfigError
from experiments.record import files

#: Text and axes; what is said aside; the grid. In a page's SVG the page's own colours stand for them.
INK, MUTED, GRID = "#24292f", "#6e7781", "#d8dce2"

#: Okabe and Ito's colours, which the colour-blind tell apart, without their yellow, which white paper swallows.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8a8f98")
BLUE, ORANGE, GREEN, _, _, _, _, GREY = COLORS
_MARKERS = "os^vD*PX"
_LINES = ("-", "--", "-.", ":")

_KINDS = ("png", "svg", "pdf")


def new_figure(width: float, height: float) -> Any:
    """Begins a picture; matplotlib is imported here, since that takes a second.

    Args:
      width: in inches.
      height: in inches.

    Returns:
      A matplotlib `Figure`, of at most 40 × 60 inches; it belongs to no window and changes no setting of matplotlib.
    """
    from experiments.record.picture import Picture

    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # absl's flags turn its notices on
    return Picture(figsize=(min(width, 40.0), min(height, 60.0)), layout="constrained")


def series(index: int) -> dict[str, Any]:
    """The look of the n-th series of a picture: told apart by colour, marker and, from the ninth on, line.

    Args:
      index: from 0.

    Returns:
      Keyword arguments for matplotlib's `plot`.

    Example:
      >>> series(1)["marker"], series(9)["linestyle"]
      ('s', '--')
    """
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _LINES[index // len(COLORS) % len(_LINES)],
        "markersize": 4.5,
        "linewidth": 1.3,
    }


def finish(figure: Any, title: str) -> Any:
    """Puts the style on all panels of a picture.

    Args:
      figure: from `new_figure`, drawn.
      title: above all panels; may be empty.

    Returns:
      The figure.
    """
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(MUTED)
        axes.tick_params(which="both", color=MUTED, labelcolor=INK, labelsize=8.5)
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set(color=INK, fontsize=9.5)
        if legend := axes.get_legend():
            legend.set_frame_on(False)
            for text in (*legend.get_texts(), legend.get_title()):
                text.set(color=INK, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=11, color=INK)
    return figure


def log_percent(axes: Any, name: str, shares: Iterable[float]) -> None:
    """Makes an axis of percentages logarithmic and names what is drawn in plain numbers, not as 6 × 10¹.

    Args:
      axes: matplotlib's panel.
      name: "x" or "y".
      shares: the percentages that are drawn; of those that lie close together one is named.
    """
    from matplotlib.ticker import NullLocator

    named: list[float] = []
    for share in sorted({share for share in shares if share > 0}, reverse=True):
        if not named or share < 0.75 * named[-1]:
            named.append(share)
    axes.set(**{f"{name}scale": "log"})
    axis = getattr(axes, f"{name}axis")
    axis.set_minor_locator(NullLocator())
    axis.set_ticks(named, [f"{share:.3g}" for share in named])


def rendered(figure: Any, kind: str, *, dpi: int = 150, salt: str = "", transparent: bool = False) -> bytes:
    """Makes a file's bytes of a picture, the same ones each time.

    Args:
      figure: from `new_figure`.
      kind: "png", "svg" or "pdf".
      dpi: dots an inch, of a PNG.
      salt: what the names inside an SVG are made of; pictures of one page need different ones.
      transparent: leaves the background out.

    Returns:
      The bytes. Text stays text, in SVG and in PDF.

    Raises:
      ConfigError: another kind.
    """
    import matplotlib

    if kind not in _KINDS:
        raise ConfigError(
            f"A picture is written as {', '.join(_KINDS)}, not as {kind!r}: change the file's ending."
        )
    date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    settings = {"svg.fonttype": "none", "svg.hashsalt": f"sparsejax {salt}", "pdf.fonttype": 42}
    buffer = io.BytesIO()
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=date, transparent=transparent)
    return buffer.getvalue()


def save_figure(path: pathlib.Path, figure: Any, *, dpi: int = 150, vector: bool = False) -> None:
    """Writes a picture whole.

    Args:
      path: the file; its ending (png, svg, pdf) says what is written, PNG where it has none.
      figure: from `new_figure`.
      dpi: dots an inch, of a PNG.
      vector: whether to write an SVG of the same name beside it.

    Raises:
      ConfigError: another ending.
    """
    files.write_bytes(path, rendered(figure, path.suffix[1:] or "png", dpi=dpi))
    if vector:
        files.write_bytes(path.with_suffix(".svg"), rendered(figure, "svg", salt=path.stem))


def inline_svg(figure: Any, name: str) -> str:
    """A picture as an element of an HTML page, in whose light or dark colours it is then drawn.

    Args:
      figure: from `new_figure`.
      name: what it shows, for those who do not see it; no two of a page are alike.

    Returns:
      ``<svg …>``, as wide as its place; ink is ``currentColor``, the rest ``var(--muted)`` and ``var(--grid)``.
    """
    text = rendered(figure, "svg", salt=name, transparent=True).decode()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.S)
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r' d="[^"]*"', _rounded, text)
    head, body = text.split(">", 1)
    width = float(re.search(r'width="([\d.]+)pt"', head)[1])
    head = re.sub(r' (width|height)="[\d.]+pt"', "", head)
    label = name.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    body = body.replace(INK, "currentColor").replace(MUTED, "var(--muted)").replace(GRID, "var(--grid)")
    return f'{head} role="img" aria-label="{label}" style="max-width:{width:.0f}pt">{body.strip()}'


def _rounded(path: re.Match[str]) -> str:
    """The coordinates of a line to a hundredth of a point: half the bytes of a page."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path[0])
