"""The shape that pruning leaves a network in: how many inputs of each layer are still read."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.report.statistics import interval
from experiments.report.tables import markdown_table
from sparsejax.params.axis_roles import flax_axes


class Architecture(NamedTuple):
    """What is left of one method's networks.

    Attributes:
      title: says which method.
      units: of each seed, path of a layer to ``(inputs left, inputs)``.
      errors: of each seed, in [0, 1].
      densities: of each seed, the share of prunable weights that is left.
    """

    title: str
    units: tuple[Mapping[str, tuple[int, int]], ...]
    errors: tuple[float, ...]
    densities: tuple[float, ...]


def units_left(masks: Mapping[str, np.ndarray]) -> dict[str, tuple[int, int]]:
    """Counts the inputs (neurons, channels) that each layer still reads.

    Args:
      masks: bool by path, in the shapes of their kernels or broadcasting to them; 0-d ones are passed over.

    Returns:
      Path to ``(left, all)``. An axis of one entry that stands for many counts as one.

    Example:
      >>> units_left({"dense/kernel": np.array([[True, False], [False, False]]), "dense/bias": np.array(True)})
      {'dense/kernel': (1, 2)}
    """
    found = {}
    for path, mask in masks.items():
        if mask.ndim < 2:
            continue
        read = flax_axes(path, mask.shape).input
        others = tuple(axis for axis in range(mask.ndim) if axis not in read)
        alive = mask.any(axis=others)
        found[path] = (int(alive.sum()), alive.size)
    return found


def architecture_table(rows: Sequence[Architecture], *, digits: int = 1) -> str:
    """Renders pruned architectures as markdown, as Louizos et al. do: inputs left layer by layer, and the error.

    Args:
      rows: one for each method.
      digits: of percentages, after the point.

    Returns:
      The table; architectures are means over the seeds, rounded, of the layers that all methods prune.

    Example:
      >>> row = Architecture("l0", ({"a": (3, 8), "b": (2, 4)}, {"a": (5, 8), "b": (2, 4)}), (0.1, 0.1), (0.5, 0.5))
      >>> print(architecture_table([row]).splitlines()[2])
      | l0 | 4-2 | 10.0 ± 0.0 % | 50.0 % |

    Source: Louizos et al., arXiv 1712.01312, table 1.
    """
    head, lines = ["method", "inputs left of each layer", "error", "weights left"], []
    shared = [path for path in rows[0].units[0] if all(path in row.units[0] for row in rows)]
    for row in rows:
        left = [np.mean([units[path][0] for units in row.units]) for path in shared]
        error = interval([100 * e for e in row.errors])
        lines.append(
            [
                row.title,
                "-".join(f"{n:.0f}" for n in left),
                f"{error.mean:.{digits}f} ± {error.half_width:.{digits}f} %",
                f"{100 * np.mean(row.densities):.{digits}f} %",
            ]
        )
    return markdown_table(head, lines)
