"""How every picture is begun and ended: no window, quiet matplotlib, and a PNG that is whole or absent."""

import io
import logging
import pathlib
from collections.abc import Iterable
from typing import Any

from experiments.record import files


def new_figure(width: float, height: float) -> Any:
    """Begins a picture; matplotlib is imported here, since that takes a second.

    Args:
      width: in inches.
      height: in inches.

    Returns:
      A matplotlib `Figure`.
    """
    import matplotlib

    matplotlib.use("Agg")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # absl's flags turn its notices on
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


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


def save_figure(path: pathlib.Path, figure: Any, *, dpi: int = 150) -> None:
    """Writes a picture whole.

    Args:
      path: the PNG file.
      figure: from `new_figure`.
      dpi: dots an inch.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    files.write_bytes(path, buffer.getvalue())
