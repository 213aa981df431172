"""Arrays drawn as pictures side by side, all in one colour scale: connections a pixel, masks, overlaps."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.errors import ConfigError
from experiments.record.figures import finish, new_figure


def heat_maps(title: str, maps: Mapping[str, np.ndarray], *, unit: str, highest: float | None = None) -> Any:
    """Draws arrays of two axes as pictures, from zero up.

    Args:
      title: above them.
      maps: name -> (rows, columns), none below zero; bools are drawn as 0 and 1.
      unit: what the numbers are, beside the scale.
      highest: the number that gets the darkest colour; the largest that there is when None.

    Returns:
      The figure.

    Raises:
      ConfigError: nothing to draw, or an array of other than two axes.
    """
    arrays = {name: np.asarray(array, float) for name, array in maps.items()}
    if not arrays or any(array.ndim != 2 for array in arrays.values()):
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ConfigError(f"heat_maps draws arrays of two axes; it got {shapes or 'none'}.")
    top = max(float(array.max()) for array in arrays.values()) if highest is None else highest
    figure = new_figure(3.1 * len(arrays) + 1.0, 3.2)
    places = np.atleast_1d(figure.subplots(1, len(arrays)))
    for axes, (name, array) in zip(places, arrays.items(), strict=True):
        image = axes.imshow(array, cmap="Blues", vmin=0, vmax=top, interpolation="nearest", aspect="equal")
        axes.set(title=name, xticks=[], yticks=[])
    bar = figure.colorbar(image, ax=list(places), shrink=0.85)
    bar.set_label(unit)
    finish(figure, title)
    for axes in figure.axes:
        axes.grid(visible=False)
    for axes in places:
        axes.spines[["left", "bottom"]].set_visible(False)
    return figure
