"""What recipes say for themselves: every argument by name, and when their masks change."""

import copy
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.errors import ParamsError, PathError, PatternError, ScheduleError, SparsityError
from sparsejax.parametrizations import GateGroup
from sparsejax.schedules import EVERY_STEP
from tests.helpers import assert_wrong_kinds_are_refused

KEY = jax.random.key(0)
PARAMS = {"w": jnp.ones((4, 4))}
RECIPES = {
    "gmp": partial(sparsejax.gmp, sparsity=0.5, begin_step=2, end_step=7, update_every=3),
    "one_shot": partial(sparsejax.one_shot, sparsity=0.5, at_step=3),
    "snip": partial(sparsejax.snip, sparsity=0.5),
    "ac_dc": partial(sparsejax.ac_dc, sparsity=0.5, total_steps=18, phase_steps=2),
    "static_random": partial(sparsejax.static_random, sparsity=0.5, key=KEY),
    "rigl": partial(sparsejax.rigl, sparsity=0.5, total_steps=20, update_every=5, key=KEY),
    "set_": partial(sparsejax.set_, sparsity=0.5, total_steps=20, update_every=5, key=KEY),
    "straight_through": partial(sparsejax.straight_through, sparsity=0.5),
    "movement": partial(sparsejax.movement, sparsity=0.5, end_step=9),
    "soft_movement": partial(sparsejax.soft_movement, end_step=9),
    "l0": partial(sparsejax.l0, penalty_weight=1e-3, key=KEY),
    "cofi": partial(sparsejax.cofi, groups={}, sparsity=0.5, warmup_steps=9, key=KEY),
}
TIMES = {
    "gmp": ([2, 5, 7], False),
    "one_shot": ([3], False),
    "snip": ([0], True),
    "ac_dc": ([2, 4, 6, 8, 10, 12, 14], False),
    "rigl": ([5, 10], True),
    "set_": ([5, 10], False),
}
LEARNED = ("straight_through", "movement", "soft_movement", "l0", "cofi")


@pytest.mark.parametrize("name", RECIPES)
def test_a_misspelt_argument_is_refused_in_the_recipes_own_name(name):
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'sparsness'"):
        RECIPES[name](optax.sgd(0.1), sparsness=0.5)


@pytest.mark.parametrize("name", RECIPES)
def test_every_argument_is_spelled_out_and_given_by_name(name):
    first, *rest = inspect.signature(getattr(sparsejax, name)).parameters.values()
    assert first.name == "optimizer"
    assert {parameter.kind for parameter in rest} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_of_no_kind_at_all_is_refused_in_our_words(name):
    needed = {"groups": {"all": GateGroup((("kernel", 0),))}} if name == "cofi" else {}
    # A target of `l0` leaves no room for a penalty; a key where no score is random is not read.
    base = partial(RECIPES[name], optax.sgd(0.1), **needed)
    assert_wrong_kinds_are_refused(
        getattr(sparsejax, name), lambda **wrong: sparsejax.init(base(**wrong), {"kernel": jnp.ones((4, 4))})
    )


def test_what_is_wrong_with_one_keyword_is_said():
    params = {"kernel": jnp.ones((4, 4))}
    for wrong, error, match in (
        ({"gates": {"a": 0.5}}, PatternError, "'a'.*neither a GateGroup"),
        ({"drop_rate": {"kernal": 0.1}}, PathError, "'kernal' matches no group of gates.*there are: kernel"),
        ({"drop_rate": {"kernel": 1.1}}, SparsityError, "drop_rate of 'kernel' is 1.1"),
        ({"penalty_weight": np.nan}, ParamsError, "penalty_weight is nan"),
        ({"counted": lambda path: True}, ParamsError, "counted"),
    ):
        with pytest.raises(error, match=match):
            sparsejax.init(RECIPES["l0"](optax.sgd(0.1), **wrong), params)
    with pytest.raises(ScheduleError, match="final_steps is -1"):
        RECIPES["ac_dc"](optax.sgd(0.1), final_steps=-1)
    with pytest.raises(ParamsError, match="decay is -1"):
        RECIPES["straight_through"](optax.sgd(0.1), decay=-1)
    with pytest.raises(SparsityError, match="sparsity is"):
        RECIPES["gmp"](optax.sgd(0.1), sparsity=[0.5, 0.6])


@pytest.mark.parametrize("name", TIMES)
def test_a_transformation_says_when_its_masks_change_and_what_that_reads(name):
    tx = RECIPES[name](optax.sgd(0.1))
    steps, reads_gradient = TIMES[name]
    assert tx.times.steps().tolist() == steps
    assert tx.reads_gradient is reads_gradient


def test_masks_that_never_change_and_those_that_follow_something_trained():
    static = RECIPES["static_random"](optax.sgd(0.1))
    assert (static.times, static.reads_gradient) == (None, False)
    for name in LEARNED:
        learned = RECIPES[name](optax.sgd(0.1))
        assert learned.times == EVERY_STEP
        assert learned.reads_gradient
    assert np.asarray(EVERY_STEP.due(np.arange(5))).all()


def test_what_a_transformation_says_survives_a_flattening_and_a_copy():
    tx = RECIPES["rigl"](optax.sgd(0.1))
    for other in (jax.tree.map(lambda function: function, tx), copy.copy(tx)):
        assert (other.times, other.reads_gradient) == (tx.times, True)
        assert tuple(other) == (tx.init, tx.update)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)


def test_a_recipe_may_be_built_under_vmap_with_a_traced_sparsity():
    said = []

    def kept(sparsity):
        tx = sparsejax.static_random(optax.sgd(0.1), sparsity=sparsity, key=KEY)
        said.append(tx.times)
        return sparsejax.get_masks(tx.init(PARAMS))["w"].sum()

    assert jax.jit(jax.vmap(kept))(jnp.array([0.25, 0.5])).tolist() == [12, 8]
    assert said[0] is None


def test_an_accumulating_score_says_that_it_reads_gradients():
    score = sparsejax.scores.Score(
        init=lambda params: params,
        update=lambda grads, state, params: jax.tree.map(jnp.add, state, grads),
        value=lambda state, params, grads, key: state,
        reads_gradient=True,
    )
    assert sparsejax.gmp(optax.sgd(0.1), sparsity=0.5, end_step=9, score=score).reads_gradient
    assert not sparsejax.gmp(optax.sgd(0.1), sparsity=0.5, end_step=9).reads_gradient
