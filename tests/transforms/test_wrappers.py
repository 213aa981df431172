"""What may stand outside sparsify, and what is refused because parameters would leave their masks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.errors import ParamsError, RandomKeyError, ScheduleError, WrapperError
from tests.helpers import KEY, assert_on_masks, full_masks, kernels, mlp_grads, mlp_params


def rigl(optimizer: Any, **options: Any) -> Any:
    return sparsejax.rigl(optimizer, sparsity=0.5, total_steps=20, update_every=3, key=KEY, **options)


SPARSE = rigl(optax.adamw(1e-2))


def _leaves_masks(tx: Any, inner_masks: Any, params: Any, steps: int) -> bool:
    """Trains unchecked; tells whether any weight off its mask is not zero after a step."""
    state = tx.init(params)
    for step in range(steps):
        updates, state = tx.update(mlp_grads(params, step), state, params)
        params = optax.apply_updates(params, updates)
        masks = full_masks(sparsejax.masks.unpack_tree(inner_masks(state)), params)
        if any(leaf[~masks[path]].any() for path, leaf in kernels(params).items()):
            return True
    return False


REFUSED = {
    "chain_after": (optax.chain(SPARSE, optax.scale(0.5)), lambda s: s[0].masks),
    "two_after": (optax.chain(optax.clip(1.0), SPARSE, optax.add_decayed_weights(0.1)), lambda s: s[1].masks),
    "nested_chain": (
        optax.chain(optax.chain(optax.clip(1.0), SPARSE), optax.scale(0.5)),
        lambda s: s[0][1].masks,
    ),
    "named_chain_after": (
        optax.named_chain(("z_first", SPARSE), ("a_second", optax.scale(0.5))),
        lambda s: s["z_first"].masks,
    ),
    "schedule_free": (optax.contrib.schedule_free(SPARSE, 1e-2), lambda s: s.base_optimizer_state.masks),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_reason(name: str):
    tx, masks = REFUSED[name]
    with pytest.raises(WrapperError, match="inside"):
        sparsejax.init(tx, mlp_params())
    started, _ = sparsejax.init(SPARSE, mlp_params())
    assert _leaves_masks(tx, masks, started, 14), "refusing is justified"


def test_lookahead_outside_is_refused():
    tx = optax.lookahead(SPARSE, sync_period=2, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(mlp_params())
    with pytest.raises(WrapperError, match=r"lookahead stands outside.*not supported"):
        sparsejax.init(tx, params)
    # Justified: the slow parameters still hold weights that the fast ones have dropped.
    fast, _ = sparsejax.init(SPARSE, mlp_params())
    params, state = optax.LookaheadParams.init_synced(fast), tx.init(params)
    off = False
    for step in range(8):
        updates, state = tx.update(mlp_grads(params.fast, step), state, params)
        params = optax.apply_updates(params, updates)
        masks = full_masks(sparsejax.masks.unpack_tree(state.fast_state.masks), params.fast)
        off = off or any(leaf[~masks[path]].any() for path, leaf in kernels(params.fast).items())
    assert off


def test_a_refused_state_is_refused_by_get_masks_too():
    state = optax.chain(SPARSE, optax.scale(0.5)).init(mlp_params())
    with pytest.raises(WrapperError):
        sparsejax.get_masks(state)


@pytest.mark.parametrize(
    "tx",
    [
        optax.chain(optax.clip_by_global_norm(1.0), SPARSE),
        optax.chain(SPARSE),
        optax.named_chain(("z_first", optax.clip(1.0)), ("a_second", SPARSE)),
        optax.masked(SPARSE, lambda params: jax.tree.map(lambda _: True, params)),
    ],
    ids=["chain_before", "chain_of_one", "named_chain_before", "masked"],
)
def test_allowed_outside(tx: Any):
    params, state = sparsejax.init(tx, mlp_params())
    update = jax.jit(tx.update)  # a state that passed through jit has its dicts sorted
    for step in range(5):
        updates, state = update(mlp_grads(params, step), state, params)
        params = optax.apply_updates(params, updates)
        assert_on_masks(params, full_masks(sparsejax.get_masks(state), params))


def test_two_sparse_parts_are_put_together():
    labels = {"body": "rigl", "head": "gmp"}
    tx = optax.partition(
        {
            "rigl": SPARSE,
            "gmp": sparsejax.gmp(optax.sgd(0.1), sparsity=0.5, begin_step=0, end_step=4, update_every=2),
        },
        lambda params: jax.tree_util.tree_map_with_path(lambda path, _: labels[path[0].key], params),
    )
    params, state = sparsejax.init(tx, mlp_params())
    for step in range(6):
        updates, state = tx.update(mlp_grads(params, step), state, params)
        params = optax.apply_updates(params, updates)
    masks = full_masks(sparsejax.get_masks(state), params)
    assert {path: int(mask.sum()) for path, mask in masks.items()} == {"body/kernel": 96, "head/kernel": 48}
    assert_on_masks(params, masks)


def test_no_sparsify_inside():
    for tx in (optax.adam(1e-3), optax.chain(optax.clip(1.0), optax.sgd(0.1)), optax.identity()):
        with pytest.raises(ParamsError, match="sparsify"):
            sparsejax.init(tx, mlp_params())
        with pytest.raises(ParamsError, match="no masks"):
            sparsejax.get_masks(tx.init(mlp_params()))


def test_update_without_params():
    params, state = sparsejax.init(SPARSE, mlp_params())
    with pytest.raises(ParamsError, match=r"tx\.update\(grads, state, params\)"):
        SPARSE.update(mlp_grads(params, 0), state)
    sgd = sparsejax.static_random(optax.sgd(0.1), sparsity=0.5, key=KEY)
    with pytest.raises(ParamsError):
        sgd.update(mlp_grads(params, 0), sgd.init(params))


@pytest.mark.parametrize("recipe", [sparsejax.rigl, sparsejax.set_])
def test_a_random_recipe_without_a_key(recipe: Any):
    with pytest.raises(RandomKeyError, match="key"):
        recipe(optax.sgd(0.1), sparsity=0.5, total_steps=100, update_every=10)
    with pytest.raises(RandomKeyError):
        sparsejax.static_random(optax.sgd(0.1), sparsity=0.5)


@pytest.mark.parametrize("key", [0, 7.5, "seed", np.zeros(2, np.uint32), jnp.zeros((2,), jnp.float32)])
def test_what_is_no_key(key: Any):
    with pytest.raises(RandomKeyError, match=r"jax\.random\.key"):
        sparsejax.rigl(optax.sgd(0.1), sparsity=0.5, total_steps=100, update_every=10, key=key)


def test_old_and_new_keys_agree():
    def masks(key: Any) -> Any:
        tx = sparsejax.static_random(optax.sgd(0.1), sparsity=0.5, key=key)
        return full_masks(sparsejax.get_masks(tx.init(mlp_params())), mlp_params())

    new, old, other = (masks(k) for k in (jax.random.key(3), jax.random.PRNGKey(3), jax.random.key(4)))
    for path, mask in new.items():
        np.testing.assert_array_equal(mask, old[path])
        assert (mask != other[path]).any()


def test_a_random_score_without_a_key():
    tx = sparsejax.one_shot(optax.sgd(0.1), sparsity=0.5, score=sparsejax.scores.random())
    params, state = sparsejax.init(tx, mlp_params())
    with pytest.raises(RandomKeyError):
        tx.update(mlp_grads(params, 0), state, params)


def test_unknown_second_moment():
    with pytest.raises(ScheduleError, match="'zero' or 'mean'"):
        rigl(optax.adam(1e-2), second_moment="warm")


def test_forgotten_init_lands_on_the_masks_at_the_first_step():
    params = mlp_params()
    state = SPARSE.init(params)
    updates, state = SPARSE.update(mlp_grads(params, 0), state, params)
    params = optax.apply_updates(params, updates)
    assert_on_masks(params, full_masks(sparsejax.get_masks(state), params))
    assert sum(int((leaf != 0).sum()) for leaf in kernels(params).values()) == 144
