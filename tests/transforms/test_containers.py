"""The container contract: every library's parameters, every method, each to its end, with roles from the model."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from sparsejax.patterns import NM
from tests.helpers import assert_on_masks, full_masks, kernels
from tests.transforms.containers import ALL, CONTAINERS, KEY, SIZES, Network, X, Y, nnx_model

STEPS = 7
HALF = {"sparsity": 0.5}
_uniform = {"distribution": sparsejax.distributions.uniform()}

MASKED = {
    "rigl": partial(sparsejax.rigl, **HALF, total_steps=12, update_every=2, key=KEY),
    "gmp": partial(sparsejax.gmp, **HALF, end_step=4, update_every=2, **_uniform),
    "2:4": partial(sparsejax.gmp, **HALF, end_step=4, update_every=2, pattern=NM(2, 4)),
}
LEARNED = {
    "straight_through": partial(sparsejax.straight_through, **HALF, update_every=1),
    "movement": partial(sparsejax.movement, **HALF, end_step=4, update_every=1),
    "l0": partial(sparsejax.l0, **HALF, key=KEY),
}


# Every container meets one method of masks and one of latents by default, every method two containers; the rest of the
# product is slow. Gates of units are found by the graph alone: three containers.
def _spread(methods: Any, turn: int) -> list[Any]:
    """All pairs; slow but for every third, which begins elsewhere in each container."""
    pairs = [(m, c) for c in CONTAINERS for m in methods]
    due = lambda m, c: (list(CONTAINERS).index(c) + turn * list(methods).index(m)) % 3 == 0  # noqa: E731
    marks = lambda m, c: [pytest.mark.torch] * (c == "torchax") + [pytest.mark.slow] * (not due(m, c))  # noqa: E731
    return [pytest.param(m, c, marks=marks(m, c)) for m, c in pairs]


def _few(containers: tuple[str, ...]) -> list[Any]:
    """All containers, slow but for these."""
    torch = lambda name: [pytest.mark.torch] * (name == "torchax")  # noqa: E731
    slow = lambda name: [pytest.mark.slow] * (name not in containers)  # noqa: E731
    return [pytest.param(name, marks=torch(name) + slow(name)) for name in CONTAINERS]


def trained(tx: Any, network: Network, steps: int = STEPS, jit: bool = False) -> tuple[Any, Any]:
    """The unchanged loop, with whatever other state the model keeps."""

    @jax.jit
    def grads_of(params: Any, kept: Any) -> Any:
        return jax.grad(loss, has_aux=True)(params, kept)

    def loss(params: Any, kept: Any) -> Any:
        out, kept = network.step(params, kept, X)
        return jnp.mean((out - Y) ** 2), kept

    def step(params: Any, state: Any, kept: Any) -> Any:
        grads, kept = grads_of(params, kept)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, kept

    params, state = sparsejax.init(tx, network.params)
    kept = network.state
    step = jax.jit(step) if jit else step
    for _ in range(steps):
        params, state, kept = step(params, state, kept)
    assert not jit or step._cache_size() == 1
    assert jax.tree.structure(params) == jax.tree.structure(network.params)
    return params, state


def check_the_end(network: Network, params: Any, masks: Any, roles: Any) -> None:
    """What everybody does with a pruned network: look at it, put averages on its masks, go on inside them."""
    assert jax.tree.structure(masks) == jax.tree.structure(params)
    assert jax.tree.structure(sparsejax.apply_masks(params, masks)) == jax.tree.structure(params)
    assert_on_masks(params, full_masks(masks, params))
    summary = sparsejax.summarize(params, masks, roles)
    # Gates of units take the biases and scales of theirs along.
    assert sorted(row.size for row in summary.rows if row.prunable and row.size > 12) == sorted(SIZES)
    assert summary.sparsity == pytest.approx(float(sparsejax.masks.sparsity(masks, params)), abs=1e-6)
    assert np.isfinite(np.asarray(network.fn(params, X))).all()
    tuning = sparsejax.sparsify(optax.adam(1e-2), sparsejax.rules.fixed_masks(masks))
    tuned, _ = trained(tuning, network._replace(params=params), 2)
    assert_on_masks(tuned, full_masks(masks, params))
    assert any((a != b).any() for a, b in zip(kernels(tuned).values(), kernels(params).values(), strict=True))


@pytest.mark.parametrize(("recipe", "container"), _spread(MASKED, 1))
def test_methods_of_masks(recipe, container):
    network = CONTAINERS[container]()
    roles = sparsejax.linear_ops(network.fn, network.params, X)
    # Eager steps share their compiled operations among containers; one method compiles its step in each.
    tx = MASKED[recipe](optax.adam(1e-2), roles=(network.fn, X))
    params, state = trained(tx, network, jit=recipe == "gmp")
    masks = sparsejax.get_masks(state)
    check_the_end(network, params, masks, roles)
    kept = {mask.size: int(mask.sum()) for mask in full_masks(masks, params).values()}
    # By hand for RigL: ε·(28 + 16) = 120; 2.727·28 = 76.4 and 2.727·16 = 43.6.
    assert kept == ({192: 76, 48: 44} if recipe == "rigl" else {192: 96, 48: 24})
    if recipe == "2:4":
        patterns = {row.pattern for row in sparsejax.summarize(params, masks, roles).rows if row.prunable}
        assert patterns == {"2:4"}


@pytest.mark.parametrize(("recipe", "container"), _spread(LEARNED, -1))
def test_methods_of_latents(recipe, container):
    network = CONTAINERS[container]()
    roles = sparsejax.linear_ops(network.fn, network.params, X)
    params, state = trained(LEARNED[recipe](optax.adam(1e-2), roles=roles), network)
    evaluated = sparsejax.eval_params(state)
    assert jax.tree.structure(evaluated) == jax.tree.structure(params)
    final, masks = sparsejax.finalize(state)
    check_the_end(network, final, masks, roles)
    if recipe != "l0":
        kept = {mask.size: int(mask.sum()) for mask in full_masks(masks, final).values()}
        assert kept == {192: 96, 48: 24}


@pytest.mark.parametrize("container", ALL)
def test_tickets(container):
    network = CONTAINERS[container]()

    def train(params: Any, masks: Any, level: int) -> tuple[Any, Any]:
        tx = sparsejax.sparsify(optax.adam(1e-2), sparsejax.rules.fixed_masks(masks))
        return trained(tx, network._replace(params=params), 2)[0], level

    roles = sparsejax.linear_ops(network.fn, network.params, X)
    levels = list(sparsejax.find_tickets(train, network.params, levels=2, fraction=0.5, roles=roles))
    check_the_end(network, levels[-1].trained, levels[-1].masks, roles)
    kept = {mask.size: int(mask.sum()) for mask in full_masks(levels[-1].masks, network.params).values()}
    assert kept == {192: 48, 48: 12}


@pytest.mark.parametrize("container", ALL)
def test_structured_pruning(container):
    network = CONTAINERS[container]()
    groups = sparsejax.prunable_groups(network.fn, network.params, X)
    (name,) = [name for name, group in groups.items() if group.size == 12]
    keep = {name: np.arange(12) % 3 != 0}
    small_fn, small = sparsejax.shrink(network.fn, network.params, X, groups, keep)
    masked = sparsejax.apply_masks(network.params, sparsejax.group_masks(network.params, groups, keep))
    np.testing.assert_allclose(small_fn(small, X), network.fn(masked, X), rtol=1e-5, atol=1e-6)
    assert sum(leaf.size for leaf in kernels(small).values() if min(leaf.shape) > 1) == 160
    assert jax.tree.structure(small) == jax.tree.structure(network.params)


@pytest.mark.parametrize("container", _few(("plain", "linen", "equinox")))
def test_cofi_to_a_small_network(container):
    network = CONTAINERS[container]()
    roles = sparsejax.linear_ops(network.fn, network.params, X)
    groups = sparsejax.prunable_groups(network.fn, network.params, X)
    groups = {name: group for name, group in groups.items() if group.size == 12}
    tx = sparsejax.cofi(optax.adam(1e-2), groups=groups, sparsity=0.5, warmup_steps=4, key=KEY)
    params, state = trained(tx, network)
    assert jax.tree.structure(sparsejax.eval_params(state)) == jax.tree.structure(params)
    final, masks = sparsejax.finalize(state)
    check_the_end(network, final, masks, roles)
    (keep,) = sparsejax.tracing.keep_from_masks(masks, groups).values()
    assert 0 < keep.sum() < 12
    small_fn, small = sparsejax.shrink(network.fn, final, X, groups, dict.fromkeys(groups, keep))
    np.testing.assert_allclose(small_fn(small, X), network.fn(final, X), rtol=1e-5, atol=1e-6)
    assert sum(leaf.size for leaf in kernels(small).values() if min(leaf.shape) > 1) == 20 * keep.sum()


# nnx.Optimizer keeps Variables in its state, and may be made before or after the effective parameters are there.

OPTIMIZED = {
    **MASKED,
    **LEARNED,
    "soft_movement": partial(sparsejax.soft_movement, end_step=4, penalty_weight=1.0),
}


def optimized(recipe: str, order: str, optimizer: Any = None) -> tuple[Any, Any]:
    model = nnx_model()
    graphdef = nnx.graphdef(model)
    tx = OPTIMIZED[recipe](optax.adam(1e-2), roles=(lambda p, x: nnx.merge(graphdef, p)(x), X))
    first = order == "optimizer, init, update"
    if first:
        made = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params, _ = sparsejax.init(tx, nnx.state(model, nnx.Param))
    nnx.update(model, params)
    if not first:
        made = (
            nnx.ModelAndOptimizer(model, tx)
            if optimizer == "both"
            else nnx.Optimizer(model, tx, wrt=nnx.Param)
        )
    for _ in range(STEPS):
        grads = nnx.grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model)
        made.update(grads) if optimizer == "both" else made.update(model, grads)
    return model, made


@pytest.mark.parametrize("recipe", OPTIMIZED)
def test_the_order_of_init_update_and_optimizer_is_all_the_same(recipe):
    model, optimizer = optimized(recipe, "optimizer, init, update")
    other, others = optimized(recipe, "init, update, optimizer")
    for pair in ((nnx.state(model), nnx.state(other)), (optimizer.opt_state, others.opt_state)):
        for ours, theirs in zip(*map(jax.tree.leaves, pair), strict=True):
            assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
    state = nnx.state(model, nnx.Param)
    masks = sparsejax.get_masks(optimizer.opt_state)
    if recipe in MASKED:
        assert_on_masks(nnx.to_pure_dict(state), full_masks(masks, state))
        return
    nnx.update(model, sparsejax.eval_params(optimizer.opt_state))
    final, masks = sparsejax.finalize(optimizer.opt_state)
    nnx.update(model, final)
    state = nnx.state(model, nnx.Param)
    assert_on_masks(nnx.to_pure_dict(state), full_masks(masks, state))
    summary = sparsejax.summarize(state, masks)
    assert sum(row.size for row in summary.rows if row.prunable) == sum(SIZES)
    if recipe != "soft_movement":
        assert summary.sparsity == pytest.approx(0.5, abs=0.1)


def test_the_model_and_its_optimizer_in_one():
    model, optimizer = optimized("rigl", "init, update, optimizer", optimizer="both")
    masks = full_masks(sparsejax.get_masks(optimizer.opt_state), nnx.state(model, nnx.Param))
    assert_on_masks(nnx.to_pure_dict(nnx.state(model, nnx.Param)), masks)


def test_latents_are_known_by_their_arrays_alone_and_forgotten_with_them():
    from sparsejax.transforms import handed_out

    w = {"w": jax.random.normal(KEY, (16, 12))}
    tx, other = (sparsejax.straight_through(optax.sgd(0.1), sparsity=0.5) for _ in range(2))
    before = len(handed_out._LATENTS)
    params, _ = sparsejax.init(tx, w)
    assert len(handed_out._LATENTS) == before + 1
    np.testing.assert_array_equal(tx.init(params).latents["w"], w["w"])
    np.testing.assert_array_equal(other.init(params).latents["w"], params["w"])
    np.testing.assert_array_equal(tx.init({"w": params["w"] + 0}).latents["w"], params["w"])
    del params
    assert len(handed_out._LATENTS) == before
