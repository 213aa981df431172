"""How every picture is begun and ended: no window, quiet matplotlib, and a PNG that is whole or absent."""

import io
import logging
import pathlib
from typing import Any

from sparsejax.training import files


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
