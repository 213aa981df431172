"""Layers inside loops and branches: solved one after another, for the dense outputs, as if they were written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.params.paths import flatten_with_paths
from sparsejax.post_training import asymmetric_target, gptq, reconstruct, solve_sparsegpt, sparsegpt, wanda
from sparsejax.post_training.sequential.walk import Walk
from tests.tracing.functions import normal


def batches(count=3, rows=60, width=6):
    return [normal(rows, width, seed=i) * jnp.exp(normal(width)) for i in range(count)]


def test_a_loop_is_solved_as_if_its_rounds_were_written_out():
    params = {"first": normal(6, 6) / 3, "again": normal(6, 6) / 3, "last": normal(6, 4)}

    def looped(p, x):
        y = jnp.tanh(x @ p["first"])
        return jax.lax.fori_loop(0, 3, lambda _, y: jnp.tanh(y @ p["again"]), y) @ p["last"]

    def written(p, x):
        y = jnp.tanh(x @ p["first"])
        for _ in range(3):
            y = jnp.tanh(y @ p["again"])
        return y @ p["last"]

    a, b = (sparsegpt(fn, params, batches(), sparsity=0.5) for fn in (looped, written))
    for name in params:
        np.testing.assert_allclose(a.params[name], b.params[name], atol=1e-4)
        for field in ("rows", "error", "held_out_error"):
            own, other = (getattr(found.layers[name], field) for found in (a, b))
            np.testing.assert_allclose(own, other, rtol=1e-3)
    assert a.layers["again"].error > 0


def test_layers_of_one_loop_are_solved_in_its_order_each_on_what_the_others_became():
    params = {"c": normal(6, 6) / 2, "a": normal(6, 6) / 2}

    def hidden(p, x):
        """What both layers read in each round."""
        into = {"a": [], "c": []}
        for _ in range(3):
            into["a"].append(x)
            into["c"].append(jnp.tanh(x @ p["a"]))
            x = jnp.tanh(into["c"][-1] @ p["c"])
        return {name: jnp.concatenate(rows) for name, rows in into.items()}

    def fn(p, x):
        body = lambda x, _: (jnp.tanh(jnp.tanh(x @ p["a"]) @ p["c"]), None)  # noqa: E731
        return jax.lax.scan(body, x, None, length=3)[0]

    found = sparsegpt(fn, params, batches(), sparsity=0.5)
    assert list(found.layers) == ["a", "c"]
    x = jnp.concatenate(batches()[:-1])
    rows = hidden(params, x)["a"]
    expected = solve_sparsegpt(params["a"].T, rows.T @ rows, sparsity=0.5).weights.T
    np.testing.assert_allclose(found.params["a"], expected, atol=1e-3)
    now = hidden({**params, "a": found.params["a"]}, x)["c"]
    gram = now.T @ now
    target = asymmetric_target(params["c"].T, gram, hidden(params, x)["c"].T @ now)
    expected = solve_sparsegpt(target, gram, sparsity=0.5).weights.T
    np.testing.assert_allclose(found.params["c"], expected, atol=5e-3)


def sums(fn, params, dense, x):
    """Totals at the only leaf of a function, the dense model beside."""
    walk = Walk(fn, dense, [x], frozenset({0}), paired=True)
    walk.start(flatten_with_paths(params)[1], flatten_with_paths(dense)[1])
    found = walk.collect(0, *(flatten_with_paths(p)[1] for p in (params, dense)), None)
    (moments,) = found.moments.values()
    return moments


@pytest.mark.parametrize("longer", ["pruned", "dense"])
def test_rounds_that_the_dense_model_does_not_make_stand_alone(longer):
    """A loop that doubles until it is large enough; a second model begins larger or smaller."""
    dense = {"w": 2 * jnp.eye(3)}
    params = {"w": (1.3 if longer == "pruned" else 5.0) * jnp.eye(3)}
    x = 0.1 + jnp.abs(normal(4, 3))

    def inputs(p):
        rows, y = [], x
        while jnp.max(y) < 20:
            rows.append(y)
            y = y @ p["w"]
        return rows

    def fn(p, x):
        return jax.lax.while_loop(lambda y: jnp.max(y) < 20, lambda y: y @ p["w"], x)

    now, then = inputs(params), inputs(dense)
    assert (len(now) > len(then)) == (longer == "pruned")
    apart = [d - n for n, d in zip(now, then, strict=False)]
    apart += [jnp.zeros_like(x)] * (len(now) - len(apart))
    found = sums(fn, params, dense, x)
    assert int(found["count"]) == 4 * len(now)
    for name, pairs in (("gram", zip(now, now, strict=True)), ("cross", zip(apart, now, strict=False))):
        np.testing.assert_allclose(found[name], sum(a.T @ b for a, b in pairs), rtol=1e-4)


@pytest.mark.parametrize("share", [1.0, -1.0])
def test_a_branch_that_the_dense_model_does_not_take_stands_alone(share):
    dense, x = {"w": jnp.eye(3)}, 1 + jnp.abs(normal(5, 3))

    def fn(p, x):
        y = x * jnp.sum(p["w"])
        return jax.lax.cond(jnp.sum(y) > 0, lambda y: y @ p["w"], lambda y: jnp.sin(y) @ p["w"], y)

    params = {"w": share * 2 * jnp.eye(3)}
    read = lambda p: jnp.sin(x * jnp.sum(p["w"])) if jnp.sum(p["w"]) < 0 else x * jnp.sum(p["w"])  # noqa: E731
    now = read(params)
    apart = read(dense) - now if share > 0 else jnp.zeros_like(x)
    found = sums(fn, params, dense, x)
    np.testing.assert_allclose(found["gram"], now.T @ now, rtol=1e-4)
    np.testing.assert_allclose(found["cross"], apart.T @ now, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["shift"], apart.T @ apart, rtol=1e-4, atol=1e-5)


def test_a_stack_scanned_inside_a_loop_aims_at_the_dense_outputs_too():
    """Scans of stacks that a loop runs again and again are not unrolled; each layer is still its own."""
    params = {"layers": normal(2, 6, 6) / 3, "into": normal(6, 6) / 3}

    def looped(p, x):
        def once(_, y):
            return jax.lax.scan(lambda y, w: (y + jnp.tanh(y @ w), None), y, p["layers"])[0]

        return jax.lax.fori_loop(0, 2, once, jnp.tanh(x @ p["into"]))

    found = sparsegpt(looped, params, batches(), sparsity=0.5)
    plain = sparsegpt(looped, params, batches(), sparsity=0.5, targets="symmetric")
    assert (np.sum(found.masks["layers"], axis=(1, 2)) == 18).all()
    aim = looped(params, batches()[-1])
    loss = [float(jnp.mean((looped(p, batches()[-1]) - aim) ** 2)) for p in (found.params, plain.params)]
    assert loss[0] < loss[1]


def test_integers_and_reconstruction_go_through_loops():
    params = {"into": normal(6, 6) / 3, "again": normal(6, 6) / 3}

    def fn(p, x):
        return jax.lax.fori_loop(0, 2, lambda _, y: y + jnp.tanh(y @ p["again"]), jnp.tanh(x @ p["into"]))

    eight = gptq(fn, params, batches(), 8, targets="asymmetric")
    assert all(layer.held_out_error < 1e-3 for layer in eight.layers.values())
    pruned = wanda(fn, params, batches(8), sparsity=0.5)
    closer = reconstruct(
        fn, pruned.params, pruned.masks, batches(8), dense=params, steps=40, learning_rate=3e-3
    )
    assert closer.blocks[-1].after < closer.blocks[-1].before
