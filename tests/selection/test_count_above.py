"""The packed counts of a CPU and the plain ones of every other device: the same counts, the same masks."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.selection import count_above as counting
from sparsejax.selection import rank_keys as slices
from sparsejax.selection import top_k_mask, uint64
from sparsejax.selection.count_above import count_above
from tests.selection.test_top_k import expected_mask, values_of


@pytest.mark.parametrize(
    ("size", "probes"),
    [(0, 4), (1, 4), (511, 1), (513, 2), (65_535, 4), (65_536, 4), (65_537, 4), (600_001, 3)],
)
def test_packed_and_plain_counts_agree(size: int, probes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(size)
    keys = jnp.asarray(rng.integers(-9, 9, (2, size)), jnp.int32)
    levels = jnp.asarray(rng.integers(-10, 9, (probes, 2)), jnp.int32)
    expected = (np.asarray(keys)[None] > np.asarray(levels)[..., None]).sum(axis=-1)
    for packed in (True, False):
        monkeypatch.setattr(counting, "packing_pays", lambda packed=packed: packed)
        assert np.array_equal(uint64.to_int(count_above(keys, levels, 1)), expected)


@pytest.fixture
def fresh_programs() -> Iterator[None]:
    """Programs compiled under a patch must not be met before it or after it."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("fresh_programs")
def test_all_layouts_give_the_same_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formulations for sharded arrays, for GPUs, and for slices whose index needs several digits."""
    cases = {kind: values_of(kind, 420).reshape(2, 6, 5, 7) for kind in ("signed", "few values", "constant")}
    expected = {kind: np.stack([expected_mask(layer, 100) for layer in cases[kind]]) for kind in cases}

    def check(packing: bool, sampling: bool, limit: int) -> None:
        jax.clear_caches()
        monkeypatch.setattr(counting, "packing_pays", lambda: packing)
        monkeypatch.setattr(slices, "sampling_pays", lambda: sampling)
        monkeypatch.setattr(slices, "MAX_AXIS", limit)
        for kind, scores in cases.items():
            assert np.array_equal(top_k_mask(jnp.asarray(scores), 100, stacked=(0,)), expected[kind]), kind

    check(packing=False, sampling=True, limit=2**31)
    check(packing=False, sampling=False, limit=2**31)
    check(packing=True, sampling=False, limit=2**31)
    check(packing=False, sampling=False, limit=36)  # the index in two digits, over (6, 5) and (7)
    check(packing=True, sampling=True, limit=8)  # in three digits
