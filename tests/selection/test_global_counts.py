"""Counts of a ranking over many arrays, against one stable sort, and with units larger than a weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax.selection import top_k_mask, uint64
from sparsejax.selection.top_k import global_counts
from tests.selection.test_top_k import KINDS, expected_mask, values_of


def expected_counts(
    scores: list[np.ndarray], stacked: list[tuple[int, ...]], budget: int
) -> list[np.ndarray]:
    """Counts from one stable sort over all arrays."""
    mask = expected_mask(np.concatenate([array.ravel() for array in scores]), budget)
    parts = np.split(mask, np.cumsum([array.size for array in scores])[:-1])
    return [
        part.reshape(array.shape).sum(axis=tuple(axis for axis in range(array.ndim) if axis not in axes))
        for part, array, axes in zip(parts, scores, stacked, strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_global_counts_are_the_global_sorts(kind: str) -> None:
    shapes, stacked = [(3, 50, 7), (1000,), (4, 300, 20), (5,)], [(0,), (), (0,), ()]
    flat = values_of(kind, sum(int(np.prod(shape)) for shape in shapes))
    cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    scores = [part.reshape(shape) for part, shape in zip(np.split(flat, cuts), shapes, strict=True)]
    held = [jnp.asarray(array) for array in scores]
    for budget in (0, 1, flat.size // 10, flat.size // 2, flat.size - 1, flat.size, flat.size + 5):
        counts = global_counts(held, jnp.int32(budget), stacked=stacked)
        for found, expected in zip(counts, expected_counts(scores, stacked, budget), strict=True):
            assert found.dtype == jnp.int32
            assert np.array_equal(found, expected), budget


def test_global_counts_give_the_global_mask() -> None:
    scores = [values_of("few values", 60).reshape(3, 20), values_of("few values", 35)]
    counts = global_counts([jnp.asarray(array) for array in scores], 40, stacked=[(0,), ()])
    masks = [top_k_mask(a, n, stacked=s) for a, n, s in zip(scores, counts, [(0,), ()], strict=True)]
    together = np.concatenate([np.ravel(mask) for mask in masks])
    assert np.array_equal(together, expected_mask(np.concatenate([array.ravel() for array in scores]), 40))


def by_hand(scores: list[np.ndarray], sizes: list[int], budget: int) -> list[int]:
    """Whole units from the best down, stopping at the first score whose units do not all fit."""
    order = sorted((-s, i) for i, array in enumerate(scores) for s in array)
    kept, used = [0] * len(scores), 0
    for score in sorted({s for s, _ in order}):
        tied = [i for s, i in order if s == score]
        full = used + sum(sizes[i] for i in tied) <= budget
        for i in tied:  # in order of arrays
            if used + sizes[i] <= budget:
                kept[i], used = kept[i] + 1, used + sizes[i]
        if not full:
            break
    return kept


@given(
    st.lists(st.integers(0, 5), min_size=6, max_size=6),
    st.lists(st.integers(0, 5), min_size=4, max_size=4),
    st.integers(0, 50),
)
@settings(deadline=None)
def test_units_are_never_split(a: list[int], b: list[int], budget: int) -> None:
    scores = [np.array(a, np.float32), np.array(b, np.float32)]
    counts = global_counts(scores, jnp.int32(budget), unit_sizes=(3, 7))
    assert [int(count) for count in counts] == by_hand(scores, [3, 7], budget)


def test_tied_units_in_order_while_they_fit() -> None:
    counts = global_counts([jnp.ones((3, 4)), jnp.ones(5)], 7, stacked=[(0,), ()], unit_sizes=[2, 1])
    assert counts[0].tolist() == [3, 0, 0]
    assert int(counts[1]) == 1


def test_budgets_beyond_32_bits() -> None:
    sizes, entries = [2**24 + 1, 2**27], 1000
    scores = [values_of("signed", entries), values_of("few values", entries)]
    total = entries * sum(sizes)
    assert total > 2**36
    traced = jax.jit(lambda budget: global_counts(scores, budget, unit_sizes=sizes))
    for budget in (0, 2**31 + 5, 2**32 - 1, 2**35, total - 1, total, total + 7):
        counts = [int(count) for count in global_counts(scores, budget, unit_sizes=sizes)]
        assert counts == by_hand(scores, sizes, budget), budget
        assert counts == [int(count) for count in traced(uint64.widen(budget))]
