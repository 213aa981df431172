"""How single weights lie by columns, as lanes want them: for each output its kept weights in the order of the inputs.

The inputs are cut into segments, short enough that the partial sums of many programs keep a card busy. In a segment
the outputs are ordered by how many of its weights each keeps, and cut into blocks of lanes; a block has as many rows as
its fullest output. So hardly any row is padding, whatever the pattern, and every row of values is read by whole lanes.
"""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import PatternError
from sparsejax.typing import Array

#: Inputs of a segment; places within one fit a byte.
SEGMENT = 256
#: Rows that a kernel copies together. Where a kernel may take the matrix its values end with so many rows more, so that
#: no copy runs over their end.
CHUNK = 16
#: Most values: XLA counts their places in int32.
MOST = 2**31 - 1
#: Outputs of a kernel's block.
LANES = (256, 128)


class Layout(NamedTuple):
    """Where everything lies.

    Attributes:
      shape: (inputs, outputs).
      span: inputs of a segment, a multiple of 32; the last may run over the end.
      lanes: outputs of a block.
      most: rows of the longest block.
    """

    shape: tuple[int, int]
    span: int
    lanes: int
    most: int

    @property
    def segments(self) -> int:
        """How many segments the inputs make."""
        return math.ceil(self.shape[0] / self.span)

    @property
    def blocks(self) -> int:
        """How many blocks the outputs make."""
        return math.ceil(self.shape[1] / self.lanes)


class Columns(NamedTuple):
    """A matrix by columns.

    Attributes:
      values: (rows, lanes); zeros after an output's last kept weight.
      places: uint8 (rows, lanes): the input of each within its segment; after an output's last one, that one's.
      order: (segments, outputs), the column of each output: block · lanes + lane.
      starts: int32 (segments · blocks + 1), the first row of each block.
      kept: bool (segments, span, columns), in that order.
      layout: sizes.
    """

    values: np.ndarray
    places: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    kept: np.ndarray
    layout: Layout


def lay_columns(matrix: np.ndarray, kept: np.ndarray, *, even: int = 1) -> Columns:
    """Lays a matrix out by columns.

    Args:
      matrix: (inputs, outputs).
      kept: bool, of that shape; any zero of the matrix may be among them.
      even: rows of a block are a multiple of this.

    Returns:
      The columns.

    Raises:
      PatternError: more kept values than `MOST`.

    Example:
      >>> found = lay_columns(np.diag([1.0, 2.0]), np.eye(2, dtype=bool))
      >>> found.values[0].tolist(), found.places[0].tolist()
      ([1.0, 2.0], [0, 1])
    """
    inputs, outputs = kept.shape
    span = span_of(inputs)
    segments = max(1, math.ceil(inputs / span))
    lanes = _lanes(outputs)
    columns = lanes * math.ceil(outputs / lanes)
    padding = ((0, segments * span - inputs), (0, columns - outputs))
    matrix, kept = (np.pad(array, padding).reshape(segments, span, columns) for array in (matrix, kept))
    counts = kept.sum(1)
    ranked = np.argsort(-counts, axis=1, kind="stable")
    most = np.take_along_axis(counts, ranked, 1)[:, ::lanes]  # each block's first output is its fullest
    most = -(-most // even) * even
    starts = np.concatenate([[0], np.cumsum(most)])
    rows = int(starts[-1]) + (CHUNK if lanes in LANES else 2)
    if rows * lanes > MOST:
        raise PatternError(
            f"The matrix ({inputs}, {outputs}) keeps {rows * lanes} values with their padding; "
            f"{MOST} can be counted: cut it along its outputs, and pack each part."
        )
    values = np.zeros((rows, lanes), matrix.dtype)
    places = np.zeros(values.shape, np.uint8)
    ordered = np.take_along_axis(kept, ranked[:, None], 2)
    for segment in range(segments):
        longest = int(most[segment].max(initial=0))
        first = np.argsort(~ordered[segment], axis=0, kind="stable")[:longest]
        count = np.minimum(counts[segment][ranked[segment]], longest)
        taken = np.arange(longest)[:, None] < count
        found = np.take_along_axis(matrix[segment][:, ranked[segment]], first, 0)
        found = np.where(taken, found, np.zeros((), found.dtype))
        first = np.maximum.accumulate(np.where(taken, first, 0), axis=0)
        for block in range(columns // lanes):
            at = starts[segment * (columns // lanes) + block]
            rows, lane = slice(at, at + most[segment, block]), slice(block * lanes, (block + 1) * lanes)
            values[rows] = found[: most[segment, block], lane]
            places[rows] = first[: most[segment, block], lane]
    order = np.argsort(ranked, axis=1)[:, :outputs].astype(np.uint16 if columns <= 1 << 16 else np.uint32)
    layout = Layout((inputs, outputs), span, lanes, int(most.max(initial=0)))
    return Columns(values, places, order, starts.astype(np.int32), ordered, layout)


def span_of(inputs: int) -> int:
    """Inputs of a segment: as even a cut as multiples of 32 allow.

    Example:
      >>> span_of(4096), span_of(300)
      (256, 160)
    """
    return 32 * max(1, math.ceil(inputs / (32 * math.ceil(max(inputs, 1) / SEGMENT))))


def sum_segments(parts: Array, order: Array) -> Array:
    """Adds what the segments give, each in its own order of outputs.

    Args:
      parts: (segments, rows, columns).
      order: (segments, outputs).

    Returns:
      (rows, outputs).

    Example:
      >>> sum_segments(jnp.array([[[1.0, 2.0]], [[10.0, 20.0]]]), jnp.array([[0, 1], [1, 0]])).tolist()
      [[21.0, 12.0]]
    """
    return jnp.take_along_axis(parts, order[:, None].astype(jnp.int32), axis=2).sum(0)


def matmul_ordered(x: Array, dense: Array, order: Array, layout: Layout) -> Array:
    """Multiplies by a matrix that lies in the orders of its segments: what is brought in order are the sums.

    Args:
      x: (…, inputs).
      dense: (segments, span, columns).
      order: (segments, outputs).
      layout: sizes.

    Returns:
      float32 (…, outputs).
    """
    segments, span, _ = dense.shape
    flat = x.reshape(-1, x.shape[-1])
    flat = jnp.pad(flat, ((0, 0), (0, segments * span - layout.shape[0]))).reshape(-1, segments, span)
    parts = jnp.einsum("rsi,sio->sro", flat, dense, preferred_element_type=jnp.float32)
    return sum_segments(parts, order).reshape(*x.shape[:-1], layout.shape[1])


def from_order(dense: Array, order: Array, layout: Layout) -> Array:
    """Brings a matrix that lies in the orders of its segments into its own.

    Args:
      dense: (segments, span, columns).
      order: (segments, outputs).
      layout: sizes.

    Returns:
      (inputs, outputs).
    """
    found = jnp.take_along_axis(dense, order[:, None].astype(jnp.int32), axis=2)
    return found.reshape(-1, layout.shape[1])[: layout.shape[0]]


@functools.cache
def _lanes(outputs: int) -> int:
    """As wide as a kernel's lanes where that hardly pads; small matrices are one block."""
    if outputs < min(LANES):
        return max(outputs, 1)
    return min(LANES, key=lambda lanes: lanes * math.ceil(outputs / lanes))
