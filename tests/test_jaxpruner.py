"""Coming from jaxpruner: one small network trained by its published semantics, written out here, and by ours.

`DIFFERENCES` names where the two part, for docs/jaxpruner.md. With all of them settled our way the two trainings are
one; with all but one they are not: so each difference is real, and there is no other on this network.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "jaxpruner.md").read_text(encoding="utf-8")
STEPS, EVERY = 24, 4
SPARSITY = 0.8
# The norm is that of all gradients: those of pruned weights show in it.
CLIPPED = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1, momentum=0.9))

#: What each recipe does differently here, with a word for the page.
DIFFERENCES = {
    "gmp": ("schedule", "last update", "masked gradients"),
    "rigl": ("first forward", "rounding", "optimizer goes on"),
}


def _params():
    keys = jax.random.split(jax.random.key(0), 2)
    shapes = {"first": (8, 13), "second": (13, 5)}
    return {
        name: {"kernel": jax.random.normal(key, shape) / np.sqrt(shape[0])}
        for (name, shape), key in zip(shapes.items(), keys, strict=True)
    }


@jax.jit
def _grads(params, step):
    x = jax.random.normal(jax.random.fold_in(jax.random.key(1), step), (16, 8))
    y = jnp.sin(x @ jnp.ones((8, 5)))

    def loss(p):
        return jnp.mean((jax.nn.tanh(x @ p["first"]["kernel"]) @ p["second"]["kernel"] - y) ** 2)

    return jax.grad(loss)(params)


def _top(scores, count):
    """The highest, ties to the lowest index: what jaxpruner's sort comes to."""
    kept = np.zeros(scores.size, bool)
    kept[np.argsort(-np.asarray(scores).ravel(), stable=True)[:count]] = True
    return kept.reshape(scores.shape)


def _times(tree, masks):
    return jax.tree.map(lambda leaf, mask: np.asarray(leaf) * mask, tree, masks)


def _sparsity(step, begin, end, settled):
    """Theirs is that of the step after."""
    past = np.clip((step + ("schedule" not in settled) - begin) / (end - begin), 0, 1)
    return SPARSITY * (1 - (1 - past) ** 3)


def _gmp_there(inner, begin, end, settled):
    params, masks = _params(), jax.tree.map(lambda w: jnp.ones(w.shape, bool), _params())
    state = inner.init(params)
    for step in range(STEPS):
        grads = _grads(params, step)
        periodic = step % EVERY == 0 and begin <= step <= end
        if periodic or ("last update" in settled and step == end):
            s = _sparsity(step, begin, end, settled)
            masks = jax.tree.map(lambda w: _top(jnp.abs(w), max(1, round(w.size * (1 - s)))), params)  # noqa: B023
        if "masked gradients" in settled:
            grads = _times(grads, masks)
        updates, state = inner.update(grads, state, params)
        params = _times(optax.apply_updates(params, updates), masks)  # post_gradient_update
    return params


def _exchange(mask, w, grad, fraction, settled):
    active = int(mask.sum())
    if "rounding" in settled:
        left = active - int(np.floor(fraction * active))
    else:  # by way of the density, rounded to nearest
        left = round(w.size * (active / w.size * (1 - fraction)))
    survivors = _top(jnp.where(mask, jnp.abs(w), -1.0), left)
    return _top(jnp.where(survivors, jnp.inf, jnp.abs(grad)), active)


def _reset_grown(state, old, new):
    """Moments of what grew are set to zero, of Adam as of momentum."""
    keep = jax.tree.map(lambda a, b: ~(~a & b), old, new)
    return jax.tree.map(
        lambda node: node._replace(mu=_times(node.mu, keep), nu=_times(node.nu, keep)) if _is_adam(node) else node,
        state,
        is_leaf=_is_adam,
    )  # fmt: skip


def _is_adam(node):
    return isinstance(node, optax.ScaleByAdamState)


def _rigl_there(inner, masks, stop, settled):
    params = _params()
    if "first forward" in settled:  # theirs masks the parameters for the first time after the first step
        params = _times(params, masks)
    state, fraction = inner.init(params), optax.cosine_decay_schedule(0.3, stop)
    for step in range(STEPS):
        grads = _grads(params, step)
        if step % EVERY == 0 and EVERY <= step < stop:
            new = jax.tree.map(
                lambda m, w, g: _exchange(m, w, g, float(fraction(step)), settled),  # noqa: B023
                masks,
                params,
                grads,
            )
            state = _reset_grown(state, masks, new)
            if "optimizer goes on" in settled:
                both = jax.tree.map(lambda a, b: a & b, masks, new)
                _, state = inner.update(_times(grads, both), state, params)
            masks, params = new, _times(params, new)  # the step of an exchange moves no weight
            continue
        updates, state = inner.update(_times(grads, masks), state, params)
        params = _times(optax.apply_updates(params, updates), masks)
    return params


def _here(tx):
    params, state = sparsejax.init(tx, _params())
    update = jax.jit(tx.update)
    for step in range(STEPS):
        updates, state = update(_grads(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def _gmp(settled=None):
    begin, end = 4, 15  # 15 is no multiple of 4
    if settled is not None:
        return _gmp_there(CLIPPED, begin, end, settled)
    return _here(
        sparsejax.gmp(CLIPPED, sparsity=SPARSITY, begin_step=begin, end_step=end, update_every=EVERY)
    )


def _rigl(settled=None):
    # Adam's own count and a schedule both show whether the optimizer stood still.
    inner = optax.adam(optax.cosine_decay_schedule(0.01, STEPS))
    masks = jax.tree.map(
        lambda w: _top(jnp.cos(jnp.arange(w.size) * 1.7).reshape(w.shape), w.size // 2), _params()
    )
    stop = 18
    if settled is not None:
        return _rigl_there(inner, masks, stop, settled)
    return _here(
        sparsejax.rigl(
            inner,
            total_steps=STEPS,
            stop_fraction=stop / STEPS,
            update_every=EVERY,
            masks=masks,
            key=jax.random.key(0),
        )
    )


RECIPES = {"gmp": _gmp, "rigl": _rigl}


def _distance(a, b):
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_with_every_difference_settled_our_way_the_two_trainings_are_one(name):
    there, here = RECIPES[name](DIFFERENCES[name]), RECIPES[name]()
    assert _distance(there, here) < 1e-5
    assert all(bool(jnp.all((x == 0) == (y == 0))) for x, y in
               zip(*map(jax.tree.leaves, (there, here)), strict=True))  # fmt: skip


@pytest.mark.parametrize(("name", "open_"), [(n, d) for n, found in DIFFERENCES.items() for d in found])
def test_each_difference_alone_changes_the_network(name, open_):
    settled = set(DIFFERENCES[name]) - {open_}
    assert _distance(RECIPES[name](settled), RECIPES[name]()) > 1e-3


def test_the_rule_of_the_page_has_their_schedule_and_their_last_update():
    block = re.search(r"^```python\n(import optax.*?)^```", PAGE, re.M | re.S)
    space = {"sparsejax": sparsejax}
    exec(compile(block[1], "docs/jaxpruner.md", "exec"), space)
    assert _distance(_gmp({"masked gradients"}), _here(sparsejax.sparsify(CLIPPED, space["rule"]))) < 1e-5


def test_the_page_names_each_difference():
    for name in {name for found in DIFFERENCES.values() for name in found}:
        assert f"| {name} |" in PAGE
