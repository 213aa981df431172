"""What the inner optimizer and the rule are given: masked gradients, dense gradients, extra arguments."""

from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.helpers import KEY, full_masks, kernels, mlp_grads, mlp_params, sparsify_state, train


class Seen(NamedTuple):
    updates: Any
    value: Any


def probe() -> optax.GradientTransformationExtraArgs:
    """Passes updates on and remembers them, and the extra argument `value`."""

    def update(updates: Any, state: Seen, params: Any = None, *, value: Any = 0.0, **extra: Any):
        del state, params, extra
        return updates, Seen(updates, jnp.asarray(value, jnp.float32))

    init = lambda params: Seen(jax.tree.map(jnp.zeros_like, params), jnp.float32(0))  # noqa: E731
    return optax.GradientTransformationExtraArgs(init, update)


def rigl(optimizer: Any, **options: Any) -> Any:
    return sparsejax.rigl(optimizer, sparsity=0.5, total_steps=20, update_every=3, key=KEY, **options)


def test_the_inner_optimizer_sees_masked_gradients():
    tx = rigl(optax.chain(probe(), optax.sgd(0.1)))
    steps = list(train(tx, mlp_params(), 8))
    for step, ((params, old), (_, new)) in enumerate(pairwise(steps)):
        before = full_masks(sparsejax.get_masks(old), params)
        after = full_masks(sparsejax.get_masks(new), params)
        seen = kernels(sparsify_state(new).inner_state[0].updates)
        for path, grad in kernels(mlp_grads(params, step)).items():
            lives = before[path] & after[path]
            np.testing.assert_array_equal(seen[path], np.where(lives, grad, 0))
            assert np.any(grad[~lives]), "the dense gradient is there to be masked"


def test_clipping_measures_the_weights_that_exist():
    tx = sparsejax.static_random(
        optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(1.0)), sparsity=0.8, key=KEY
    )
    params, state = sparsejax.init(tx, mlp_params())
    grads = mlp_grads(params, 0)
    masks = sparsejax.get_masks(state)
    masked = jax.tree.map(lambda g, m: np.where(m, g, 0).astype(np.float64), grads, masks)
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(masked)))
    dense_norm = float(optax.tree.norm(grads))
    assert dense_norm > 1.3 * norm
    updates, _ = tx.update(grads, state, params)
    for update, grad in zip(jax.tree.leaves(updates), jax.tree.leaves(masked), strict=True):
        np.testing.assert_allclose(update, -grad * 0.01 / norm, rtol=1e-5, atol=1e-9)


def test_extra_arguments_reach_the_inner_optimizer():
    tx = rigl(optax.chain(probe(), optax.adam(1e-2), optax.contrib.reduce_on_plateau(patience=1, factor=0.5)))
    params, state = sparsejax.init(tx, mlp_params())
    update = jax.jit(lambda g, s, p, v: tx.update(g, s, p, value=v))
    scales = []
    for step in range(6):
        updates, state = update(mlp_grads(params, step), state, params, 7.0)
        params = optax.apply_updates(params, updates)
        inner = sparsify_state(state).inner_state
        assert float(inner[0].value) == 7.0
        scales.append(float(inner[2].scale))
    assert scales[-1] < 1.0, "a loss that never falls is a plateau"


@pytest.mark.parametrize("jit", [False, True])
def test_dense_gradients_are_asked_for_at_mask_updates_only(jit: bool):
    calls = []
    tx = rigl(optax.adam(1e-2))

    def step(params: Any, state: Any, index: Any) -> tuple[Any, Any]:
        def dense() -> Any:
            jax.debug.callback(lambda i: calls.append(int(i)), index)
            return mlp_grads(params, index)

        updates, state = tx.update(mlp_grads(params, index), state, params, dense_grads_fn=dense)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step) if jit else step
    params, state = sparsejax.init(tx, mlp_params())
    for index in range(16):
        params, state = step(params, state, index)
    jax.effects_barrier()
    assert calls == [3, 6, 9, 12]


def test_growth_follows_the_dense_gradients_that_are_given():
    params = mlp_params()
    tx = rigl(optax.adam(1e-2))
    params, state = sparsejax.init(tx, params)
    old = full_masks(sparsejax.get_masks(state), params)
    target = {path: np.argwhere(~mask)[::7][:3] for path, mask in old.items()}  # three dead weights a layer

    def dense() -> Any:
        def mark(path: Any, leaf: Any) -> Any:
            name = "/".join(key.key for key in path)
            wanted = np.zeros(leaf.shape, np.float32)
            for place in target.get(name, ()):
                wanted[tuple(place)] = 1.0
            return jnp.asarray(wanted)

        return jax.tree_util.tree_map_with_path(mark, params)

    zeros = jax.tree.map(jnp.zeros_like, params)
    _, state = tx.update(zeros, state, params, step=3, dense_grads_fn=dense)
    new = full_masks(sparsejax.get_masks(state), params)
    for path, places in target.items():
        assert all(new[path][tuple(place)] for place in places)
        assert new[path].sum() == old[path].sum()


def test_a_score_observes_dense_gradients_at_every_step():
    def accumulated() -> sparsejax.scores.Score:
        add = lambda grads, state, params: jax.tree.map(lambda s, g: s + jnp.abs(g), state, grads)  # noqa: E731
        return sparsejax.scores.Score(
            init=lambda params: jax.tree.map(jnp.zeros_like, params),
            update=add,
            value=lambda state, params, grads, key: state,
        )

    tx = rigl(optax.sgd(0.1), grow=accumulated())
    steps = list(train(tx, mlp_params(), 5))
    total = sum(
        np.abs(mlp_grads(params, step)["body"]["kernel"]) for step, (params, _) in enumerate(steps[:-1])
    )
    _, grow_state = sparsify_state(steps[-1][1]).rule_state
    np.testing.assert_allclose(grow_state["body"]["kernel"], total, rtol=1e-6)


def test_step_decides_whether_masks_are_due():
    tx = rigl(optax.adam(1e-2))
    params, state = sparsejax.init(tx, mlp_params())
    grads = mlp_grads(params, 0)
    masks = sparsejax.get_masks(state)
    for step, due in ((0, False), (3, True), (4, False), (12, True), (15, False)):
        _, after = tx.update(grads, state, params, step=step)
        same = jax.tree.map(lambda a, b: bool((a == b).all()), masks, sparsejax.get_masks(after))
        assert all(jax.tree.leaves(same)) != due
        assert int(sparsify_state(after).count) == 1, "the state's own count goes on"
