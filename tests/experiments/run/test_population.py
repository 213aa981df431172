"""A population trains as its members would alone, however it is cut, and mask updates stay behind a cond."""

import re

import jax
import numpy as np
import pytest

import sparsejax
from experiments.run.population import Run, groups_of, runs_of
from experiments.run.state import STATE_AXES, member_of, over_members
from experiments.run.step import train_step
from tests.experiments import tiny

SPLIT = tiny.make_split()
GRID = {"population": 2, "sparsities": (0.5, 0.75), "learning_rates": (0.05, 0.02)}


@pytest.fixture(scope="module")
def population():
    config = tiny.make_config(**GRID)
    (state,), metrics = tiny.train(config, SPLIT)
    return config, state, metrics


def test_the_members_are_the_product(population):
    runs = runs_of(population[0])
    assert len(runs) == 8
    assert runs[5] == Run(seed=1, sparsity=0.75, learning_rate=0.05)
    assert runs[5].name == "seed_1-sparsity_0.75-rate_0.05"
    assert len({run.name for run in runs}) == 8


@pytest.mark.parametrize("index", [0, 7])
def test_each_member_is_its_own_run(population, index):
    config, state, metrics = population
    run = runs_of(config)[index]
    single = tiny.make_config(seed=run.seed, sparsity=run.sparsity, learning_rate=run.learning_rate)
    (alone,), said = tiny.train(single, SPLIT)
    member = member_of(state, index)
    # Masks, their counts and the examples are the same to the bit; products of a batch of matrices may add up
    # in another order, so weights agree to rounding.
    tiny.assert_same(sparsejax.get_masks(member.opt_state), sparsejax.get_masks(alone.opt_state))
    tiny.assert_same(metrics.kept[:, index], said.kept[:, 0])
    tiny.assert_same(metrics.changed[:, index], said.changed[:, 0])
    for a, b in zip(jax.tree.leaves(member.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics.loss[:, index], said.loss[:, 0], rtol=1e-4)
    assert int(member.step) == int(alone.step)


def test_members_differ_in_what_sets_them_apart(population):
    _, state, metrics = population
    kept = state.kept.sum(axis=1)
    assert kept.tolist() == [32] * 4 + [16] * 4
    firsts = metrics.loss[0]
    assert firsts[0] != firsts[1]  # another seed, other weights
    assert firsts[0] == firsts[2]  # only the rate differs, which has not acted yet
    assert not np.array_equal(state.params["a"]["kernel"][0], state.params["a"]["kernel"][2])


def test_how_the_population_is_cut_changes_nothing():
    changes = {"method": "gmp", "optimizer": "sgd", "population": 1, "sparsities": (0.5, 0.75)}
    (whole,), metrics = tiny.train(tiny.make_config(**changes), SPLIT)
    cut, said = tiny.train(tiny.make_config(**changes, population_chunk=1), SPLIT)
    assert [len(part.kept) for part in cut] == [1, 1]
    for i, part in enumerate(cut):
        there, here = member_of(whole, i), member_of(part, 0)
        tiny.assert_same(sparsejax.get_masks(there.opt_state), sparsejax.get_masks(here.opt_state))
        for a, b in zip(jax.tree.leaves(there.params), jax.tree.leaves(here.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    tiny.assert_same(metrics.kept, said.kept)
    np.testing.assert_allclose(metrics.loss, said.loss, rtol=1e-4)


def test_groups_of_one_recipe_but_another_size_have_programs_of_their_own():
    config = tiny.make_config(method="dense", sparsity=0.0, population=3, population_chunk=2)
    states, metrics = tiny.train(config, SPLIT)
    assert [len(state.kept) for state in states] == [2, 1]
    assert metrics.loss.shape == (tiny.STEPS, 3)


def test_on_a_cpu_convolutions_run_member_by_member():
    config = tiny.make_config(population=3)
    assert [len(group.runs) for group in groups_of(config, stepwise=True)] == [1, 1, 1]
    config.population_chunk = 2
    assert [len(group.runs) for group in groups_of(config, stepwise=True)] == [2, 1]


def test_mask_updates_stay_a_cond_in_the_compiled_population():
    config = tiny.make_config(**GRID)
    (group,) = groups_of(config, stepwise=False)
    recipe, state = tiny.begin(config, group)
    step = over_members(
        lambda state, member, batch: train_step(
            recipe.objective, recipe.build(member).tx, recipe.meter, state, batch
        ),
        True, (STATE_AXES, 0, None), (STATE_AXES, 0),
    )  # fmt: skip
    text = jax.jit(step).lower(state, group.members, SPLIT.take(np.arange(4))).compile().as_text()
    # One chooses the masks, one counts them.
    assert len(re.findall(r"\bconditional\(", text)) >= 2
