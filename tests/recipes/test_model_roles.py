"""Axis roles from the model: every recipe takes them, and without them nothing is guessed that matters."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.errors import LayoutError
from sparsejax.patterns import NM, Block, Channel
from tests.helpers import KEY

#: As equinox and PyTorch lay kernels out: (out, in); roles by Flax's convention would be the wrong way round.
PARAMS = {"fc": {"weight": jnp.asarray(np.random.default_rng(0).normal(size=(8, 16)), jnp.float32)}}
X = jnp.ones((3, 16))


def apply(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["fc"]["weight"].T


OPS = sparsejax.linear_ops(apply, PARAMS, X)
ROLES = {"ops": OPS, "roles": {path: op.roles for path, op in OPS.items()}, "function": (apply, X)}
UNIFORM = sparsejax.distributions.uniform()
RECIPES = {
    "gmp": partial(sparsejax.gmp, sparsity=0.5, end_step=0),
    "one_shot": partial(sparsejax.one_shot, sparsity=0.5),
    "snip": partial(sparsejax.snip, sparsity=0.5),
    "static_random": partial(sparsejax.static_random, sparsity=0.5, key=KEY),
    "set": partial(
        sparsejax.set_, sparsity=0.5, total_steps=9, update_every=2, key=KEY, distribution=UNIFORM
    ),
    "rigl": partial(
        sparsejax.rigl, sparsity=0.5, total_steps=9, update_every=2, key=KEY, distribution=UNIFORM
    ),
    "ac_dc": partial(sparsejax.ac_dc, sparsity=0.5, total_steps=3, phase_steps=1, warmup_steps=0),
    "straight_through": partial(sparsejax.straight_through, sparsity=0.5),
    "movement": partial(sparsejax.movement, sparsity=0.5, end_step=0),
}


def two_of_four_inputs(masks: Any) -> bool:
    return bool((np.asarray(masks["fc"]["weight"]).reshape(8, 4, 4).sum(-1) == 2).all())


@pytest.mark.parametrize(
    ("recipe", "given"),
    [(recipe, "function") for recipe in RECIPES] + [("gmp", "ops"), ("gmp", "roles"), ("movement", "ops")],
)
def test_two_of_four_run_along_the_inputs(recipe, given):
    tx = RECIPES[recipe](optax.sgd(0.1), pattern=NM(2, 4), roles=ROLES[given])
    params, state = sparsejax.init(tx, PARAMS)
    _, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    assert two_of_four_inputs(sparsejax.get_masks(state))


@pytest.mark.parametrize("given", ROLES)
def test_pruning_without_training(given):
    pruned, masks = sparsejax.prune_params(PARAMS, sparsity=0.5, pattern=NM(2, 4), roles=ROLES[given])
    assert two_of_four_inputs(masks)
    assert int((pruned["fc"]["weight"] != 0).sum()) == 64


def test_gates_of_input_neurons():
    tx = sparsejax.l0(optax.sgd(0.1), penalty_weight=1e-3, key=KEY, roles=(apply, X))
    _, state = sparsejax.init(tx, PARAMS)
    assert state.aux.trained.log_alpha[0].shape == (1, 16)


def test_tickets():
    train = lambda params, masks, level: (params, None)  # noqa: E731
    roles = {"fc/weight": sparsejax.tracing.AxisRoles(input=(1,), output=(), stacked=(0,))}
    levels = list(sparsejax.find_tickets(train, PARAMS, levels=1, fraction=0.5, roles=roles))
    assert (
        np.asarray(levels[1].masks["fc"]["weight"]).sum(1).tolist() == [8] * 8
    )  # each output a layer of its own


def test_erdos_renyi_counts_the_window_that_roles_name():
    """(out, in, 3, 3), as PyTorch has it: 8·4·9 weights, dims (4, 8, 3, 3)."""
    from jax import lax

    def fn(p, x):
        h = lax.conv_general_dilated(x, p["conv"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        return h.sum((2, 3)) @ p["head"]

    params = {"conv": jnp.ones((8, 4, 3, 3)), "head": jnp.ones((8, 10))}
    tx = sparsejax.rigl(
        optax.sgd(0.1),
        sparsity=0.5,
        total_steps=9,
        update_every=2,
        key=KEY,
        roles=(fn, jnp.ones((1, 4, 5, 5))),
    )
    masks = sparsejax.get_masks(sparsejax.init(tx, params)[1])
    # By hand: ε·(18 + 18) = 184, ratios 18/288 and 18/80: densities 0.3194 and 1.15; capped at 1, (184 − 80)/288.
    assert (int(masks["conv"].sum()), int(masks["head"].sum())) == (104, 80)


NEED_ROLES = {
    "2:4": {"pattern": NM(2, 4)},
    "block 2x2": {"pattern": Block(2, 2)},
    "output channel": {"pattern": Channel("output")},
    "Erdős–Rényi": {"distribution": sparsejax.distributions.erdos_renyi()},
    "Erdős–Rényi-Kernel": {"distribution": sparsejax.distributions.erdos_renyi_kernel()},
}


@pytest.mark.parametrize("case", NEED_ROLES)
def test_without_roles_nothing_that_needs_them_is_guessed(case):
    with pytest.raises(
        LayoutError, match=r"'fc/weight' \(8, 16\).*roles=sparsejax\.linear_ops\(fn, params, x\)"
    ):
        sparsejax.prune_params(PARAMS, sparsity=0.5, **NEED_ROLES[case])
    sparsejax.prune_params(PARAMS, sparsity=0.5, roles=(apply, X), **NEED_ROLES[case])


def test_single_weights_need_no_roles():
    _, masks = sparsejax.prune_params(PARAMS, sparsity=0.5)
    assert int(masks["fc"]["weight"].sum()) == 64


def test_a_kernel_of_flax_needs_no_roles():
    _, masks = sparsejax.prune_params({"kernel": jnp.ones((8, 4))}, sparsity=0.5, pattern=NM(2, 4))
    assert (np.asarray(masks["kernel"]).reshape(2, 4, 4).sum(1) == 2).all()


def test_the_function_is_traced_once_for_all_updates():
    traced = []

    def counted(params, x):
        traced.append(1)
        return apply(params, x)

    tx = sparsejax.gmp(optax.sgd(0.1), sparsity=0.5, end_step=4, update_every=1, roles=(counted, X))
    params, state = sparsejax.init(tx, PARAMS)
    for _ in range(5):  # eager: every update asks for the layers
        _, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    assert len(traced) == 1


def test_what_is_no_roles_is_refused():
    for bad in (apply, "flax", (X, apply), [1]):
        with pytest.raises(LayoutError, match=r"roles is .*sparsejax\.linear_ops\(fn, params, x\)"):
            sparsejax.gmp(optax.sgd(0.1), sparsity=0.5, end_step=4, roles=bad)
    with pytest.raises(LayoutError, match="'other'; none of it is a parameter: 'fc/weight'"):
        sparsejax.prune_params(PARAMS, sparsity=0.5, roles={"other": OPS["fc/weight"].roles})
    tx = optax.partition({"a": sparsejax.one_shot(optax.sgd(0.1), sparsity=0.5, roles=(apply, X)), "b": optax.sgd(0.1)},
                         {"fc": {"weight": "a"}, "bias": "b"})  # fmt: skip
    with pytest.raises(LayoutError, match=r"leave 'bias' out.*roles=sparsejax\.linear_ops"):
        sparsejax.init(tx, {**PARAMS, "bias": jnp.ones(8)})
