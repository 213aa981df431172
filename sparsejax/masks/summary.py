"""summarize: what is pruned, layer by layer, with exact totals over prunable and over all weights."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparsejax.masks.mask_trees import fit_masks, is_prunable_mask
from sparsejax.masks.prunable import axis_roles_of
from sparsejax.params.axis_roles import AxisRoles, Roles, flax_axes, sizes
from sparsejax.params.default_filter import dense_reason
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.typing import MaskTree, Params

_LONGEST_RUN = 256
_GROUPS = ((1, 4), (2, 4), (1, 8), (2, 8), (4, 8), (1, 16), (2, 16), (4, 16), (8, 16))


# Columns of a terminal.
_WIDTH = 80


class LayerSummary(NamedTuple):
    """One line of a `Summary`.

    Attributes:
      path: the parameter's path.
      shape: its shape.
      pattern: the tightest pattern that its mask satisfies, "dense", or "—" where not prunable.
      size: weights.
      kept: weights kept.
      mask_bytes: bytes that the mask takes unpacked; packed it takes an eighth.
      reason: why a leaf of two or more axes is not pruned; empty for others.
    """

    path: str
    shape: tuple[int, ...]
    pattern: str
    size: int
    kept: int
    mask_bytes: int
    reason: str = ""

    @property
    def sparsity(self) -> float:
        """The share of zeros."""
        return 1.0 - self.kept / max(self.size, 1)

    @property
    def prunable(self) -> bool:
        """Whether the leaf takes part in pruning."""
        return self.pattern != "—"


class Summary(NamedTuple):
    """What `summarize` gives; print it for the table.

    Attributes:
      rows: one `LayerSummary` a parameter.
    """

    rows: tuple[LayerSummary, ...]

    @property
    def sparsity(self) -> float:
        """The share of zeros among prunable weights."""
        return _sparsity([row for row in self.rows if row.prunable])

    @property
    def total_sparsity(self) -> float:
        """The share of zeros among all weights, biases and embeddings included."""
        return _sparsity(self.rows)

    @property
    def size(self) -> int:
        """All weights."""
        return sum(row.size for row in self.rows)

    @property
    def kept(self) -> int:
        """All weights less the pruned ones."""
        return sum(row.kept for row in self.rows)

    def __str__(self) -> str:
        head = ("layer", "shape", "pattern", "sparsity", "kept")
        body = [_cells(row) for row in self.rows]
        body += [_total("prunable", [row for row in self.rows if row.prunable]), _total("all", self.rows)]
        widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
        rule = "  ".join("─" * width for width in widths)
        lines = [_line(cells, widths) for cells in (head, *body)]
        notes = [
            *_dense_notes(self.rows),
            f"masks: {sum(row.mask_bytes for row in self.rows):,} bytes unpacked",
        ]
        folded = [
            textwrap.fill(note, _WIDTH, subsequent_indent="  ", break_on_hyphens=False) for note in notes
        ]
        return "\n".join([lines[0], rule, *lines[1:-2], rule, *lines[-2:], *folded])


def summarize(params: Params, masks: MaskTree, roles: Roles | None = None) -> Summary:
    """Tells what is pruned, layer by layer, and why the other leaves are not.

    Counts are exact integers, of any size. The pattern is not what was asked for but what the mask turns
    out to satisfy; sparse enough masks may satisfy one by chance.

    Args:
      params: the parameters.
      masks: their masks, for example from `get_masks`.
      roles: as the recipe had them: what each axis is for, ``linear_ops(fn, params, x)``.

    Returns:
      The summary; ``print(summary)`` for a table, ``.rows``, ``.sparsity``, ``.total_sparsity``.

    Raises:
      MaskError: the masks do not fit.
      LayoutError: `roles` are of other parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> w = jnp.ones((4, 4))
      >>> summarize({"w": w}, {"w": jnp.eye(4, dtype=bool)}).sparsity
      0.75
    """
    masks = fit_masks(masks, params)
    paths, leaves, _ = flatten_with_paths(params)
    known = axis_roles_of(roles, params)
    rows = [
        _row(path, leaf, mask, known)
        for path, leaf, mask in zip(paths, leaves, flatten_with_paths(masks)[1], strict=True)
        if not is_masked_node(leaf)
    ]
    return Summary(tuple(rows))


def _row(path: str, leaf: Any, mask: Any, roles: Mapping[str, AxisRoles] | None) -> LayerSummary:
    shape, size = np.shape(leaf), math.prod(np.shape(leaf))
    if not is_prunable_mask(mask):
        reason = dense_reason(path, leaf, roles) or "left out by prunable= or overrides="
        return LayerSummary(path, shape, "—", size, size, 1, reason if len(shape) > 1 else "")
    mask = np.asarray(mask)
    kept = int(np.count_nonzero(mask)) * (size // max(mask.size, 1))
    axes = (roles or {}).get(path) or flax_axes(path, shape)
    return LayerSummary(path, shape, _pattern_of(mask, shape, axes), size, kept, mask.nbytes)


def _pattern_of(mask: np.ndarray, shape: tuple[int, ...], axes: AxisRoles) -> str:
    if mask.all():
        return "dense"
    if mask.shape != shape:
        return "channel"
    order = (*axes.stacked, *axes.spatial, *axes.input, *axes.output)
    inputs, outputs = (int(np.prod(sizes(shape, a))) for a in (axes.input, axes.output))
    matrices = np.transpose(mask, order).reshape(-1, inputs, outputs)
    if not mask.any():
        return "empty"
    rows, cols = _run_length(matrices), _run_length(matrices.transpose(0, 2, 1))
    if rows * cols > 1:
        return f"block {rows}x{cols}"
    for n, m in _GROUPS:
        if inputs % m == 0 and (matrices.reshape(len(matrices), -1, m, outputs).sum(2) == n).all():
            return f"{n}:{m}"
    return "unstructured"


def _run_length(matrices: np.ndarray) -> int:
    """The longest run of rows, a divisor of their number, within which every column is constant."""
    depth, rows, cols = matrices.shape
    for run in range(min(rows, _LONGEST_RUN), 1, -1):
        if rows % run == 0:
            runs = matrices.reshape(depth, rows // run, run, cols)
            if (runs == runs[:, :, :1]).all():
                return run
    return 1


def _sparsity(rows: Sequence[LayerSummary]) -> float:
    size = sum(row.size for row in rows)
    return 1.0 - sum(row.kept for row in rows) / size if size else 0.0


def _cells(row: LayerSummary) -> tuple[str, ...]:
    sparsity = f"{row.sparsity:.4f}" if row.prunable else "—"
    shape = "×".join(map(str, row.shape)) or "scalar"
    return (row.path, shape, row.pattern, sparsity, f"{row.kept:,}")


def _total(name: str, rows: Sequence[LayerSummary]) -> tuple[str, ...]:
    kept, size = (sum(getattr(row, key) for row in rows) for key in ("kept", "size"))
    return (f"total, {name}", f"{size:,}", "", f"{_sparsity(rows):.4f}", f"{kept:,}")


def _dense_notes(rows: Sequence[LayerSummary]) -> list[str]:
    """A line for each reason why leaves of two or more axes are dense, with those leaves."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            by_reason.setdefault(row.reason, []).append(row.path)
    return [f"dense, {reason}: {', '.join(paths)}" for reason, paths in by_reason.items()]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    pairs = list(zip(cells, widths, strict=True))
    left, right = pairs[:3], pairs[3:]
    return "  ".join([c.ljust(w) for c, w in left] + [c.rjust(w) for c, w in right]).rstrip()
