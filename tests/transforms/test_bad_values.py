"""What is no value of its kind is refused when a transformation is made, or at the latest when it begins."""

import functools
import inspect

import jax
import jax.numpy as jnp
import optax
import pytest

import sparsejax
from sparsejax.errors import SparsejaxError

KEY = jax.random.key(0)
PARAMS = {"dense": {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)}}
GATES = {"out": sparsejax.parametrizations.GateGroup((("dense/kernel", 1),))}
NEEDED = {
    "gmp": {"sparsity": 0.5, "end_step": 10},
    "one_shot": {"sparsity": 0.5},
    "snip": {"sparsity": 0.5},
    "static_random": {"sparsity": 0.5, "key": KEY},
    "rigl": {"sparsity": 0.5, "total_steps": 400, "key": KEY},
    "set_": {"sparsity": 0.5, "total_steps": 400, "key": KEY},
    "ac_dc": {"sparsity": 0.5, "total_steps": 400, "phase_steps": 20},
    "straight_through": {"sparsity": 0.5},
    "movement": {"sparsity": 0.5, "end_step": 10},
    "soft_movement": {"end_step": 10},
    "l0": {"key": KEY, "penalty_weight": 1e-3},
    "cofi": {"key": KEY, "groups": GATES, "sparsity": 0.5, "warmup_steps": 10},
}
BAD = {
    "optimizer": [optax.adamw, None, "adamw", 0.1],
    "distribution": [sparsejax.distributions.uniform, "uniform", 0.5],
    "score": [sparsejax.scores.magnitude, "magnitude"],
    "drop": [sparsejax.scores.magnitude],
    "grow": [sparsejax.scores.gradient_magnitude, 3],
    "pattern": [sparsejax.patterns.NM, "2:4", (2, 4)],
    "overrides": [{"dense/*": 0.5}, {"dense/*": sparsejax.patterns.NM}, [("dense/*", sparsejax.dense)]],
    "prunable": ["kernel", {"dense/kernel": True}],
    "key": [jax.random.split(KEY, 3), 0, "seed"],
    "total_steps": [2**31, 1e4, None],
    "end_step": [2**31, "10"],
    "begin_step": [-1, 2**31],
    "update_every": [0, 2.5, 2**31],
    "phase_steps": [0, 1.5],
    "warmup_steps": [-1, 2**31],
    "score_optimizer": [optax.adam],
    "gate_optimizer": [optax.adam],
}
CASES = [
    (name, argument, value)
    for name in NEEDED
    for argument, values in BAD.items()
    for value in values
    if argument in inspect.signature(getattr(sparsejax, name)).parameters
]


def test_every_recipe_that_wraps_an_optimizer_is_here():
    recipes = {
        name
        for name in dir(sparsejax)
        if inspect.isfunction(getattr(sparsejax, name))
        and next(iter(inspect.signature(getattr(sparsejax, name)).parameters), "") == "optimizer"
    }
    assert recipes - {"sparsify", "reparametrize"} == set(NEEDED)


@pytest.mark.parametrize(("name", "argument", "value"), CASES)
def test_it_is_a_typed_error_at_the_beginning(name, argument, value):
    arguments = {**NEEDED[name], argument: value}
    optimizer = arguments.pop("optimizer", optax.sgd(0.1))
    with pytest.raises(SparsejaxError) as error:
        sparsejax.init(getattr(sparsejax, name)(optimizer, **arguments), PARAMS)
    assert len(str(error.value)) > 20


@pytest.mark.parametrize("name", NEEDED)
def test_a_misspelt_option_names_the_recipe(name):
    with pytest.raises(TypeError, match=rf"{name}\(\).*distrbution"):
        getattr(sparsejax, name)(optax.sgd(0.1), **NEEDED[name], distrbution=None)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sparsejax.sparsify(optax.sgd(0.1), sparsejax.rules.fixed_masks),
        lambda: sparsejax.sparsify(optax.sgd, sparsejax.rules.fixed_masks(PARAMS)),
        lambda: sparsejax.reparametrize(optax.sgd(0.1), sparsejax.parametrizations.movement),
        lambda: sparsejax.reparametrize(optax.sgd, sparsejax.parametrizations.straight_through(0.5)),
        lambda: sparsejax.prune_params(PARAMS, sparsity=0.5, score=sparsejax.scores.magnitude),
        lambda: sparsejax.prune_params(PARAMS, sparsity=0.5, distribution="uniform"),
        lambda: sparsejax.init(PARAMS, sparsejax.gmp(optax.sgd(0.1), sparsity=0.5, end_step=9)),
        lambda: sparsejax.schedules.update_every(10, begin=0, end=2**31),
        lambda: sparsejax.schedules.cubic(0.5, begin=0, end=2**40),
    ],
)
def test_the_parts_refuse_it_too(make):
    with pytest.raises(SparsejaxError):
        make()


def test_the_leaf_that_is_no_array_is_named():
    params = {**PARAMS, "activation": jax.nn.relu}
    for tx in (
        sparsejax.gmp(optax.sgd(0.1), sparsity=0.5, end_step=10),
        sparsejax.l0(optax.sgd(0.1), key=KEY, penalty_weight=1e-3),
    ):
        with pytest.raises(sparsejax.errors.ParamsError, match=r"'activation'.*function"):
            sparsejax.init(tx, params)
    with pytest.raises(sparsejax.errors.ParamsError, match="'activation'"):
        sparsejax.prune_params(params, sparsity=0.5)


def test_a_key_of_each_member_is_one_key():
    def init(key):
        tx = sparsejax.static_random(optax.sgd(0.1), sparsity=0.5, key=key)
        return sparsejax.init(tx, PARAMS)[0]

    found = jax.vmap(init)(jax.random.split(KEY, 2))["dense"]["kernel"]
    assert (found != 0).sum((1, 2)).tolist() == [32, 32]
    assert functools.reduce(lambda a, b: bool((a != b).any()), found)
