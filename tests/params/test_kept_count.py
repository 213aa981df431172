"""round((1 − s)·n), exact: for host numbers in float64, for traced ones in 64-bit integer arithmetic."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax.errors import SparsityError
from sparsejax.params.kept_count import _traced_count, check_sparsity, kept_count
from tests.oracles import kept_count as exact_count

SPARSITIES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
SIZES = (1, 2, 7, 10, 1000, 784 * 300, 10**7 + 3, 10**9 + 7, 2**31 - 1, 2**31, 2**31 + 1, 7 * 10**10 + 1)


@pytest.mark.parametrize("size", SIZES)
def test_host_counts_equal_fractions(size):
    assert kept_count(size, np.array(SPARSITIES)).tolist() == [exact_count(size, s) for s in SPARSITIES]


@given(st.integers(1, 2**40), st.floats(0, 1))
def test_host_counts_are_the_nearest_whole_number(size, sparsity):
    exact = (1 - Fraction(sparsity)) * size
    # Two roundings of float64, relative to n: decisive only that close to a half.
    assert abs(int(kept_count(size, sparsity)) - exact) <= Fraction(1, 2) + Fraction(size, 2**52)


def test_halves_go_to_the_even_count():
    assert [int(kept_count(n, 0.75)) for n in (2, 6, 10, 14)] == [0, 2, 2, 4]
    assert _traced_count(10, jnp.float32(0.75)) == 2
    assert _traced_count(6, jnp.float32(0.75)) == 2


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2**31 - 1), st.lists(st.floats(2**-8, 1, width=32), min_size=16, max_size=16))
def test_traced_counts_are_exact_for_the_float32_value(size, sparsities):
    counts = _traced_count(size, jnp.array(sparsities, jnp.float32))
    assert counts.tolist() == [exact_count(size, s) for s in sparsities]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2**31 - 1), st.lists(st.floats(0, 2**-8, width=32), min_size=16, max_size=16))
def test_traced_counts_of_tiny_sparsities_are_within_a_quarter(size, sparsities):
    counts = _traced_count(size, jnp.array(sparsities, jnp.float32))
    for count, s in zip(counts.tolist(), sparsities, strict=True):
        # The sparsity is rounded to 2⁻³², half of that at most, and n is below 2³¹.
        assert abs(count - (1 - Fraction(s)) * size) <= Fraction(1, 2) + Fraction(1, 4)


@pytest.mark.parametrize("size", [10, 10**9, 2**31 - 1])
def test_a_traced_sparsity_counts_under_jit(size):
    counts = jax.jit(lambda s: kept_count(size, s))(jnp.array(SPARSITIES, jnp.float32))
    assert counts.dtype == jnp.int32
    assert counts.tolist() == [exact_count(size, np.float32(s)) for s in SPARSITIES]


def test_float32_arithmetic_would_miss_what_we_hit():
    # The peer computes in float32: 24 too many of 10⁹.
    naive = int(np.float32(1 - np.float32(0.9)) * np.float32(10**9))
    assert abs(naive - 10**8) > 5
    assert int(kept_count(10**9, 0.9)) == 10**8


def test_a_traced_sparsity_refuses_a_layer_of_2_to_the_31():
    with pytest.raises(SparsityError, match=r"2147483648 units needs a concrete sparsity"):
        jax.eval_shape(lambda s: kept_count(2**31, s), jnp.float32(0.5))


BAD = {
    "a percentage": 90,
    "a percentage in an array": np.array([0.5, 90.0]),
    "negative": -0.1,
    "not a number": float("nan"),
    "infinite": float("inf"),
    "None": None,
    "a string": "0.9",
    "a bool": True,
    "complex": 0.5j,
    "nothing": [],
    "a list, which jax.numpy takes for no array either": [0.5, 0.9],
    "ragged": [[0.1], [0.2, 0.3]],
    "a list with a hole": [0.5, None],
    "an object": object(),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_fraction_is_refused_by_name(case):
    with pytest.raises(SparsityError, match=r"my argument is .*give a fraction of zeros in \[0, 1\]"):
        check_sparsity(BAD[case], "my argument")


def test_a_percentage_gets_a_hint():
    with pytest.raises(SparsityError, match=r"write 0\.9 for 90 %"):
        check_sparsity(90, "sparsity")


@pytest.mark.parametrize(
    "good", [0, 1, 0.5, np.float32(0.5), jnp.bfloat16(0.5), jnp.array([0.0, 1.0]), np.array([0.5])]
)
def test_fractions_of_any_real_type_pass(good):
    check_sparsity(good, "sparsity")


def test_a_traced_sparsity_passes():
    jax.eval_shape(lambda s: check_sparsity(s, "sparsity"), jnp.float32(7))
