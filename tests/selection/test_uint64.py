"""Two-limb counts against Python's own integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparsejax.selection import uint64
from sparsejax.selection.uint64 import Wide, to_int, widen

COUNT = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 10),
    st.integers(2**32 - 3, 2**32 + 3),
    st.integers(2**64 - 3, 2**64 - 1),
)
# One program for all examples.
ADD, SUBTRACT = jax.jit(uint64.add), jax.jit(uint64.subtract)
COMPARE = jax.jit(lambda a, b: (uint64.less(a, b), uint64.equal(a, b), uint64.minimum(a, b)))


@settings(deadline=None)
@given(COUNT, COUNT)
@example(2**32 - 1, 1)
@example(2**32, 2**32 - 1)
def test_sums_differences_and_order(a: int, b: int) -> None:
    left, right = widen(a), widen(b)
    assert to_int(ADD(left, right)) == (a + b) % 2**64
    assert to_int(SUBTRACT(left, right)) == (a - b) % 2**64
    less, equal, smaller = COMPARE(left, right)
    assert (bool(less), bool(equal), to_int(smaller)) == (a < b, a == b, min(a, b))
    assert float(uint64.to_float(left)) == pytest.approx(a, rel=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3, 65_535, 65_536, 65_537, 2**31 - 1, 2**32 - 1])
def test_products_and_quotients(factor: int) -> None:
    multiply = jax.jit(lambda a: uint64.times(a, factor))
    divide = jax.jit(lambda a: uint64.floor_divide(a, factor))

    @settings(deadline=None)
    @given(COUNT)
    def check(a: int) -> None:
        assert to_int(multiply(widen(a))) == a * factor % 2**64
        if factor <= 2**31:
            assert to_int(divide(widen(a))) == a // factor

    check()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
@settings(deadline=None)
def test_totals_do_not_overflow(values: list[int]) -> None:
    counts = widen(np.array(values + [0] * (40 - len(values)), np.uint64))
    assert to_int(uint64.total(counts, (0,), 2**40)) == sum(values)


def test_one_limb_is_kept_where_it_is_enough() -> None:
    small = uint64.constant(5)
    assert small.hi is None
    assert uint64.add(small, small).hi is None
    assert to_int(uint64.add(small, widen(2**32))) == 2**32 + 5
    assert to_int(uint64.subtract(widen(2**32), small)) == 2**32 - 5
    assert bool(uint64.less(small, widen(2**32)))
    assert not bool(uint64.equal(small, widen(2**32 + 5)))
    assert uint64.total(Wide(None, jnp.ones(3, jnp.uint32)), (0,), 3).hi is None
    assert to_int(uint64.where(jnp.bool_(True), small, widen(2**33))) == 5
    assert to_int(uint64.times(uint64.constant(2**31), 6)) == 6 * 2**31


def test_fitting_caps_what_one_limb_cannot_hold() -> None:
    capped = uint64.fit(widen(np.array([3, 2**40], np.int64)), 10)
    assert capped.hi is None
    assert to_int(capped).tolist() == [3, 2**32 - 1]
    assert uint64.like(capped, widen(1)).hi is not None
    assert uint64.fit(uint64.constant(3), 2**40).hi is not None


@pytest.mark.parametrize(
    "value",
    [
        0,
        2**31,
        2**63,
        np.int64(2**40),
        np.uint64(2**64 - 1),
        np.array([1, 2**33]),
        np.arange(3, dtype=np.int8),
    ],
)
def test_widen_keeps_host_integers(value: int | np.ndarray) -> None:
    assert np.array_equal(to_int(widen(value)), np.asarray(value, np.uint64))


def test_widen_of_device_integers() -> None:
    assert to_int(widen(jnp.array([-4, 0, 2**31 - 1], jnp.int32))).tolist() == [0, 0, 2**31 - 1]
    assert to_int(widen(jnp.uint32(2**32 - 1))) == 2**32 - 1
    with jax.enable_x64(True):
        assert to_int(widen(jnp.int64(2**40 + 7))) == 2**40 + 7


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (2**64, ValueError), (0.5, TypeError)])
def test_widen_refuses(value: float, error: type[Exception]) -> None:
    with pytest.raises(error, match=str(value)):
        widen(value)
    with pytest.raises(TypeError, match="float32"):
        widen(jnp.float32(1))
