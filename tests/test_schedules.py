"""When masks change and how sparse they are then, against the papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparsejax
from sparsejax.errors import ScheduleError, SparsityError
from tests import oracles


@given(st.integers(0, 50), st.integers(0, 200), st.integers(1, 70))
def test_update_times_are_what_they_say(begin, span, every):
    end = begin + span
    times = sparsejax.schedules.update_every(every, begin=begin, end=end)
    expected = sorted({*range(begin, end + 1, every), end})
    assert times.steps().tolist() == expected
    assert times.count == len(expected)
    assert [step for step in range(end + 10) if times.due(step)] == expected


def test_index_counts_the_updates_and_holds_between_them():
    times = sparsejax.schedules.update_every(4, begin=2, end=12)  # 2, 6, 10, 12
    indices = [int(times.index(step)) for step in range(15)]
    assert indices == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3]


def test_due_and_index_are_the_same_for_a_traced_step():
    times = sparsejax.schedules.update_every(4, begin=2, end=12)
    due, index = jax.jit(jax.vmap(lambda t: (times.due(t), times.index(t))))(jnp.arange(15))
    assert due.tolist() == [bool(times.due(t)) for t in range(15)]
    assert index.tolist() == [int(times.index(t)) for t in range(15)]


def test_the_last_update_is_forced_where_the_frequency_does_not_divide_the_length():
    times = sparsejax.schedules.update_every(30, begin=0, end=100)
    assert times.steps().tolist() == [0, 30, 60, 90, 100]
    schedule = sparsejax.schedules.cubic(0.9, begin=0, end=100)
    assert float(schedule(int(times.steps()[-1]))) == 0.9  # a peer stops at 0.8994


@pytest.mark.parametrize(
    "arguments",
    [
        {"steps": 10, "begin": 5, "end": 4},
        {"steps": 0, "begin": 0, "end": 4},
        {"steps": -1, "begin": 0, "end": 4},
        {"steps": 1, "begin": -1, "end": 4},
        {"steps": 1.5, "begin": 0, "end": 4},
        {"steps": True, "begin": 0, "end": 4},
        {"steps": 1, "begin": 0, "end": 10.0},
        {"steps": 1, "begin": None, "end": 10},
    ],
)
def test_update_times_that_contradict_themselves_are_refused(arguments):
    steps = arguments.pop("steps")
    with pytest.raises(ScheduleError, match=r"every|begin|end"):
        sparsejax.schedules.update_every(steps, **arguments)


@given(
    st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000), st.integers(1, 5000), st.integers(0, 7000)
)  # fmt: skip
def test_cubic_is_zhu_and_guptas_formula(initial, final, begin, span, step):
    schedule = sparsejax.schedules.cubic(final, begin=begin, end=begin + span, initial=initial)
    expected = oracles.cubic(step, begin, begin + span, initial, final)
    assert float(schedule(step)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("build", [sparsejax.schedules.cubic, sparsejax.schedules.linear])
def test_schedules_begin_and_end_exactly(build):
    schedule = build(0.9, begin=10, end=47, initial=0.3)
    # A peer is one step early: at its first update it is beyond the initial sparsity already.
    assert [float(schedule(t)) for t in (0, 10, 47, 1000)] == [0.3, 0.3, 0.9, 0.9]
    values = [float(schedule(t)) for t in range(10, 48)]
    assert values == sorted(values)


def test_linear_is_a_straight_line():
    schedule = sparsejax.schedules.linear(0.8, begin=10, end=20, initial=0.2)
    np.testing.assert_allclose(
        [float(schedule(t)) for t in range(10, 21)], np.linspace(0.2, 0.8, 11), atol=1e-12
    )


def test_a_traced_step_gives_the_same_to_float32():
    steps = np.arange(60)
    for schedule in (
        sparsejax.schedules.cubic(0.9, begin=10, end=47, initial=0.3),
        sparsejax.schedules.linear(0.9, begin=10, end=47),
        sparsejax.schedules.step(0.9, at=20),
        sparsejax.schedules.cosine_drop_fraction(0.3, end=50),
    ):
        host = np.array([float(schedule(int(t))) for t in steps])
        traced = jax.vmap(schedule)(jnp.asarray(steps))
        np.testing.assert_allclose(traced, host, atol=2e-7)


def test_a_schedule_of_no_length_jumps():
    schedule = sparsejax.schedules.cubic(0.9, begin=10, end=10)
    assert [float(schedule(t)) for t in (9, 10, 11)] == [0.0, 0.9, 0.9]
    assert [float(sparsejax.schedules.step(0.5, at=3)(t)) for t in (0, 2, 3, 4)] == [0.0, 0.0, 0.5, 0.5]
    assert float(sparsejax.schedules.step(0.5)(0)) == 0.5


def test_a_population_has_one_curve_a_member():
    schedule = sparsejax.schedules.cubic(np.array([0.5, 0.9]), begin=0, end=10)
    expected = [oracles.cubic(5, 0, 10, 0.0, s) for s in (0.5, 0.9)]
    np.testing.assert_allclose(schedule(5), expected, atol=1e-12)


def test_cosine_is_rigls_drop_fraction():
    schedule = sparsejax.schedules.cosine_drop_fraction(0.3, end=75)
    for step in range(76):
        assert float(schedule(step)) == pytest.approx(oracles.cosine_fraction(step, 0.3, 75), abs=1e-15)
    assert float(schedule(0)) == 0.3
    assert float(schedule(100)) == 0.0


def test_constant_is_constant():
    assert {sparsejax.schedules.constant(0.7)(step) for step in range(5)} == {0.7}


SPARSITIES = {
    "cubic": lambda s: sparsejax.schedules.cubic(s, begin=0, end=1),
    "cubic's initial": lambda s: sparsejax.schedules.cubic(0.5, begin=0, end=1, initial=s),
    "linear": lambda s: sparsejax.schedules.linear(s, begin=0, end=1),
    "constant": sparsejax.schedules.constant,
    "jump": sparsejax.schedules.step,
}


@pytest.mark.parametrize("bad", [1.5, -0.1, float("nan"), None, "0.5"])
@pytest.mark.parametrize("name", SPARSITIES)
def test_a_sparsity_outside_0_1_is_refused_when_the_schedule_is_built(name, bad):
    with pytest.raises(SparsityError, match=r"give a fraction of zeros in \[0, 1\]"):
        SPARSITIES[name](bad)


@pytest.mark.parametrize("build", [sparsejax.schedules.cubic, sparsejax.schedules.linear])
@pytest.mark.parametrize(("begin", "end"), [(10, 9), (-1, 5)])
def test_a_schedule_that_ends_before_it_begins_is_refused(build, begin, end):
    with pytest.raises(ScheduleError, match=rf"from step {begin} to step {end}|begin is {begin}"):
        build(0.5, begin=begin, end=end)


def test_a_negative_jump_is_refused():
    with pytest.raises(ScheduleError, match="begin is -1"):
        sparsejax.schedules.step(0.5, at=-1)


@pytest.mark.parametrize(("alpha", "end"), [(1.5, 10), (-0.1, 10), (float("nan"), 10), (0.3, 0)])
def test_a_drop_fraction_that_makes_no_sense_is_refused(alpha, end):
    with pytest.raises(ScheduleError, match=r"drop|end is 0"):
        sparsejax.schedules.cosine_drop_fraction(alpha, end=end)
