"""Matrices that the tests of the kernels share, and the float64 products they are compared with."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.kernels.block_sparse import BlockSparse, from_dense

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}


class Case(NamedTuple):
    """A matrix with NaN in its dead slots, its dense twin, inputs, and the gradient of the outputs."""

    w: BlockSparse
    dense: np.ndarray
    mask: np.ndarray
    x: jnp.ndarray
    g: jnp.ndarray


def masks(rows: int, columns: int) -> dict[str, np.ndarray]:
    """The structures that break kernels: nothing, everything, one block, empty rows and columns."""
    some = np.random.default_rng(0).random((rows, columns)) < 0.4
    some[1], some[:, 0] = False, False  # an empty row of blocks, and an empty first column
    one = np.zeros((rows, columns), bool)
    one[rows - 1, 0] = True
    last = some.copy()
    last[:, -1] = False  # dead slots point at the last column: it must come out as zeros
    return {
        "none": np.zeros((rows, columns), bool),
        "all": np.ones((rows, columns), bool),
        "one": one,
        "empty rows and columns": some,
        "last column empty": last,
    }


def make_case(
    mask: np.ndarray, block: tuple[int, int], rows: int, dtype: str = "float32", spare: int = 2, **fields: str
) -> Case:
    """Draws a case: `spare` dead slots, where the capacity leaves them, are filled with NaN."""
    rng = np.random.default_rng(1)
    shape = (mask.shape[0] * block[0], mask.shape[1] * block[1])
    values = jnp.asarray(rng.standard_normal(shape), dtype)
    w = from_dense(values, jnp.asarray(mask), block=block, capacity=int(mask.sum()) + spare)
    filled = jnp.where(w.topology.is_live[:, None, None], w.data, jnp.nan).astype(dtype)
    w = dataclasses.replace(w, data=filled, **fields)
    dense = np.asarray(values, np.float64) * np.kron(mask, np.ones(block))
    x = jnp.asarray(rng.standard_normal((rows, shape[0])), dtype)
    g = jnp.asarray(rng.standard_normal((rows, shape[1])), dtype)
    return Case(w, dense, mask, x, g)


def relative_error(value: jnp.ndarray, expected: np.ndarray) -> float:
    """``‖value − expected‖ / ‖expected‖`` in float64; the norm itself where zeros are expected."""
    off = np.linalg.norm(np.asarray(value, np.float64) - expected)
    return float(off / (np.linalg.norm(expected) or 1.0))


def blocks_of(matrix: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """(block rows, block columns, block inputs, block outputs)."""
    grid = matrix.shape[0] // block[0], matrix.shape[1] // block[1]
    return matrix.reshape(grid[0], block[0], grid[1], block[1]).transpose(0, 2, 1, 3)
