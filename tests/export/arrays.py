"""Arrays and quantized tensors of every kind, for round trips; and the reader of the documentation."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np

import sparsejax
from sparsejax.post_training import quantize

DOCS = pathlib.Path(sparsejax.__file__).parents[1] / "docs" / "files.md"


def reader():
    """``read_weights`` of docs/files.md, and its source."""
    source = re.findall(r"^```python\n(import json.*?)^```", DOCS.read_text(), re.M | re.S)[0]
    source = source.replace("weights = read_weights(path)\n", "")
    space = {}
    exec(compile(source, str(DOCS), "exec"), space)
    return space["read_weights"], source


def mask_of(kind, shape, rng):
    """A mask of which one layout is the smallest."""
    if kind == "dense":
        return np.ones(shape, bool)
    if kind == "n:m":
        mask = np.zeros(shape, bool)
        groups = mask.reshape(-1, 4)
        np.put_along_axis(groups, rng.integers(0, 4, (len(groups), 1)), True, axis=1)
        return groups.reshape(shape)
    if kind == "blocks":
        blocks = rng.random((shape[0] // 8, shape[1] // 8)) < 0.5
        blocks[0, 0] = False
        return np.repeat(np.repeat(blocks, 8, 0), 8, 1)
    mask = rng.random(shape) < 0.3
    mask[0, :2] = (True, False)
    return mask


def tensor(kind, dtype, *, bits=None, granularity="channel", symmetric=True, shape=(32, 24), seed=0):
    """(leaf, mask): an array on a mask of a kind, quantized where `bits` says so."""
    rng = np.random.default_rng(seed)
    mask = mask_of(kind, shape, rng)
    array = np.where(mask, rng.normal(0.3, 1.0, shape), 0).astype(jnp.dtype(dtype))
    if bits is None:
        return array, mask
    return quantize({"w": jnp.asarray(array)}, bits, granularity, symmetric=symmetric)["w"], mask


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    size = a.dtype.itemsize
    np.testing.assert_array_equal(
        np.ascontiguousarray(a).view(f"u{size}"), np.ascontiguousarray(b).view(f"u{size}")
    )
