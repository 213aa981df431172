"""A matplotlib figure that needs no window and no pyplot, and shows itself where it is a notebook's last line."""

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """What every drawing function returns; `experiments.record.figures.save_figure` writes it."""

    def _repr_png_(self) -> bytes:
        """What Jupyter asks for; PNG, since GitHub shows no SVG that a notebook stores."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()
