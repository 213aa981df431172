"""Layouts: the smallest is taken, places come back, small numbers are packed as said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from sparsejax.export.layouts import choose_layout, kept_places, pack_bits, unpack_bits
from tests.export.arrays import mask_of


@settings(deadline=None, max_examples=100)
@given(
    arrays_of.arrays(bool, arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=17)),
    st.sampled_from([4, 8, 16, 32]),
    st.booleans(),
)
def test_places_come_back_and_hold_what_is_present(present, bits, exact):
    layout = choose_layout(present, bits, exact=exact)
    again = kept_places(
        layout.kind, layout.facts, layout.index, present.shape, int(np.count_nonzero(layout.kept))
    )
    np.testing.assert_array_equal(again, layout.kept)
    assert np.all(layout.kept | ~present)
    if exact:
        np.testing.assert_array_equal(layout.kept, present)


@pytest.mark.parametrize("kind", ["dense", "bitmask", "n:m", "blocks"])
@pytest.mark.parametrize("bits", [4, 8, 32])
def test_the_smallest_is_taken(kind, bits):
    mask = mask_of(kind, (32, 24), np.random.default_rng(0))
    layout = choose_layout(mask, bits, exact=True)
    assert layout.kind == kind
    size = int(layout.kept.sum()) * bits + 8 * (0 if layout.index is None else layout.index.size)
    assert size <= mask.size * bits
    assert size <= mask.size + int(mask.sum()) * bits


def test_two_of_four_costs_what_a_bitmask_costs_and_is_taken():
    rng = np.random.default_rng(0)
    mask = np.stack([rng.permutation([True, True, False, False]) for _ in range(64)]).reshape(16, 16)
    mask[0, :4] = (True, False, False, True)
    layout = choose_layout(mask, 8, exact=True)
    assert (layout.kind, layout.facts) == ("n:m", {"n": 2, "m": 4, "axis": 1})
    assert layout.index.size * 8 == mask.size
    assert layout.index[0] & 15 == 0b1100  # places 0 and 3, two bits each, the first lowest
    assert choose_layout(mask.T, 8, exact=True).facts == {"n": 2, "m": 4, "axis": 0}


def test_a_few_zeros_are_stored_where_their_places_need_not_come_back():
    present = np.ones((64, 64), bool)
    present[0, 0] = False
    assert choose_layout(present, 8, exact=False).kind == "dense"
    assert choose_layout(present, 8, exact=True).kind == "bitmask"


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 5, 8, 1001])
def test_small_numbers_are_packed_lowest_bit_first(bits, count):
    values = np.random.default_rng(bits).integers(0, 2**bits, count).astype(np.uint8)
    packed = pack_bits(values, bits)
    stream = sum(int(v) << (bits * i) for i, v in enumerate(values))
    assert packed.tobytes() == stream.to_bytes(-(-count * bits // 8), "little")
    np.testing.assert_array_equal(unpack_bits(packed, bits, count), values)
    with pytest.raises(ValueError, match="do not fill"):
        unpack_bits(packed, bits, count + 9)
