"""Functions that return more than what counts: state and hidden layers beside the logits."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from sparsejax.errors import TracingError
from sparsejax.structured import prune_structured
from sparsejax.tracing import group_masks, pin_results, prunable_groups, shrink, shrink_tree
from tests.tracing.equality import FAST, assert_close, masked, random_params
from tests.tracing.functions import normal, weights

MODULE = nn.Sequential(
    [nn.Conv(8, (3, 3)), nn.BatchNorm(use_running_average=False), nn.relu, nn.Conv(3, (1, 1))]
)


def stateful(variables, x):
    """Logits, and the variables with new statistics, as a training step of Flax has them."""
    logits, moved = MODULE.apply(variables, x, mutable=["batch_stats"])
    return logits, {**variables, **moved}


def hidden(p, x):
    h = jax.nn.relu(x @ p["a"])
    return {"logits": h @ p["c"], "hidden": h, "mean": h.mean(0)}


def test_state_shrinks_with_the_parameters_and_trains_on():
    x, y = normal(2, 6, 6, 3), normal(2, 6, 6, 3, seed=5)
    variables = random_params(jax.eval_shape(MODULE.init, jax.random.key(0), x))
    fn = pin_results(stateful, lambda results: results[0])
    groups = prunable_groups(fn, variables, x)
    (name,) = groups
    keep = {name: np.arange(8) % 3 != 0}
    small_fn, small = shrink(fn, variables, x, groups, keep)
    masks = group_masks(variables, groups, keep)

    @partial(jax.jit, static_argnums=0, compiler_options=FAST)
    def step(function, variables):
        def loss(params):
            logits, moved = function({**variables, "params": params}, x)
            return ((logits - y) ** 2).mean(), moved["batch_stats"]

        grads, stats = jax.grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads)
        return {"params": params, "batch_stats": stats}

    full = masked(variables, masks)
    for _ in range(3):
        full, small = masked(step(fn, full), masks), step(small_fn, small)
    assert small["batch_stats"]["layers_1"]["mean"].shape == (5,)
    assert_close(small, shrink_tree(full, groups, keep))


class Normed(nnx.Module):
    """A convolution with batch norm that is training."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.out = nnx.Conv(8, 3, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.relu(self.norm(self.conv(x))))


def test_the_state_of_nnx_goes_in_and_out():
    graph, state = nnx.split(nnx.eval_shape(lambda: Normed(nnx.Rngs(0))))
    state, x = random_params(state), normal(2, 6, 6, 3)

    def fn(state, x):
        module = nnx.merge(graph, state)
        return module(x), nnx.state(module)

    pinned = pin_results(fn, lambda results: results[0])
    groups = prunable_groups(pinned, state, x)
    (name,) = groups
    keep = {name: np.arange(8) < 5}
    small_fn, small = shrink(pinned, state, x, groups, keep)
    run = partial(jax.jit, compiler_options=FAST)
    logits, moved = run(small_fn)(small, x)
    expected, full = run(fn)(masked(state, group_masks(state, groups, keep)), x)
    assert_close(logits, expected)
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    assert_close(moved, shrink_tree(full, groups, keep))


def test_hidden_layers_come_out_smaller():
    params, x = weights(a=(5, 8), c=(8, 3)), normal(4, 5)
    fn = pin_results(hidden, lambda results: results["logits"])
    groups = prunable_groups(fn, params, x)
    keep = {"a:1": np.arange(8) % 2 == 0}
    small_fn, small = shrink(fn, params, x, groups, keep)
    full = fn(masked(params, group_masks(params, groups, keep)), x)
    found = small_fn(small, x)
    assert_close(found["logits"], full["logits"])
    assert_close(found["hidden"], full["hidden"][:, keep["a:1"]])
    assert_close(found["mean"], full["mean"][keep["a:1"]])


def test_the_error_names_what_pins_the_axes_and_the_way_out():
    params, x = weights(a=(5, 8), c=(8, 3)), normal(4, 5)
    reasons = {out.name: out.reason for out in prunable_groups(hidden, params, x).excluded}
    assert reasons["a:1"] == "an axis of the function's results (['hidden'])"
    with pytest.raises(TracingError, match=r"a:1: .*\(\['hidden'\]\).*tracing\.pin_results\(fn, lambda out"):
        prune_structured(hidden, params, x, channel_ratio=0.5)
    found = prune_structured(pin_results(hidden, lambda out: out["logits"]), params, x, channel_ratio=0.5)
    assert int(found.keep["a:1"].sum()) == 4


@pytest.mark.parametrize(
    "select", [lambda out: out["logit"], lambda out: out["logits"][:, 0], lambda out: [], lambda out: 7]
)
def test_what_does_not_pick_is_refused(select):
    with pytest.raises(
        TracingError, match=r"must pick from the function's results \['hidden'\], \['logits'\]"
    ):
        prunable_groups(pin_results(hidden, select), weights(a=(5, 8), c=(8, 3)), normal(4, 5))
    with pytest.raises(TracingError, match="pin_results takes a function and one that picks"):
        pin_results(3, select)


def test_a_whole_train_state_is_cut():
    params, x = weights(a=(5, 8), c=(8, 3)), normal(4, 5)
    fn = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["c"]  # noqa: E731
    state = TrainState.create(apply_fn=fn, params=params, tx=optax.adamw(1e-2))
    update = lambda s: s.apply_gradients(grads=jax.grad(lambda p: (s.apply_fn(p, x) ** 2).sum())(s.params))  # noqa: E731
    state = update(state)
    groups = prunable_groups(fn, params, x)
    keep = {"a:1": np.arange(8) % 2 == 0}
    masks = group_masks(params, groups, keep)
    state = state.replace(params=masked(state.params, masks))
    small = shrink_tree(state, groups, keep)
    small = small.replace(apply_fn=shrink(fn, params, x, groups, keep)[0])
    assert small.opt_state[0].mu["a"].shape == (5, 4)
    small, state = update(small), update(state)
    assert int(small.step) == 2
    assert_close(small.params, shrink_tree(state.params, groups, keep))


def test_dead_results_are_not_the_functions():
    """What a caller drops costs nothing, freezes nothing and is not evaluated."""
    params = weights(v=(8, 6), o=(6, 8))

    def both(p, x):
        v = x @ p["v"]
        return v @ p["o"], jnp.sort(v, axis=-1)

    groups = prunable_groups(lambda p, x: both(p, x)[0], params, normal(4, 8))
    assert [group.size for group in groups.values()] == [6]
    assert list(prunable_groups(both, params, normal(4, 8))) == []
