"""reparametrize equals plain autodiff through the parametrization inside the loss, and lands where it says."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.transforms.reparametrize import effective_params
from tests.helpers import KEY, kernels, mlp_loss, mlp_params
from tests.transforms.cases import SETUPS

GROUPS = {
    "neurons": sparsejax.parametrizations.GateGroup(
        scaled=(("head/kernel", 0),), follows=(("body/kernel", 1), ("body/bias", 0))
    ),
    "blocks": sparsejax.parametrizations.GateGroup(scaled=(("body/kernel", 0),), units=4),
    "layer": sparsejax.parametrizations.GateGroup(scaled=(("body/kernel", None),)),
}
METHODS: dict[str, Callable[[], sparsejax.parametrizations.Parametrization]] = {
    "straight_through": partial(
        sparsejax.parametrizations.straight_through, 0.6, update_every=3, end_step=10
    ),
    "straight_through_nm": partial(
        sparsejax.parametrizations.straight_through,
        0.5,
        allocation=sparsejax.distributions.Allocation(pattern=sparsejax.patterns.NM(2, 4)),
        update_every=2,
        decay=2e-4,
    ),
    "movement": partial(
        sparsejax.parametrizations.movement,
        0.7,
        end_step=10,
        update_every=2,
        allocation=sparsejax.distributions.Allocation(sparsejax.distributions.global_threshold()),
    ),
    "movement_block": partial(
        sparsejax.parametrizations.movement,
        0.5,
        begin_step=2,
        end_step=10,
        allocation=sparsejax.distributions.Allocation(pattern=sparsejax.patterns.Block(2, 2)),
    ),
    "soft_movement": partial(
        sparsejax.parametrizations.soft_movement,
        0.4,
        penalty_weight=sparsejax.schedules.cubic(1.0, begin=0, end=9),
    ),
    "l0_weights": partial(
        sparsejax.parametrizations.hard_concrete, sparsejax.patterns.Unstructured(), penalty_weight=1e-3
    ),
    "l0_neurons": partial(
        sparsejax.parametrizations.hard_concrete, sparsejax.patterns.Channel("output"), sparsity=0.5
    ),
    "cofi": partial(
        sparsejax.parametrizations.hard_concrete,
        GROUPS,
        sparsity=sparsejax.schedules.linear(0.6, begin=0, end=9),
        drop_rate={"lay*": 0.05},
    ),
}
SECOND = optax.adam(1e-2)


def _noise(count: Any) -> Any:
    """The design's word on noise: drawn from the key and the number of steps taken."""
    return jax.random.fold_in(KEY, count)


def plain(optimizer: Any, method: sparsejax.parametrizations.Parametrization, params: Any) -> tuple[Any, Any]:
    """The same training with the parametrization written into the loss: ``(carry, step)``."""
    optimizer = optax.with_extra_args_support(optimizer)
    dtypes = jax.tree.map(lambda p: p.dtype, params)
    latents = jax.tree.map(lambda p: p.astype(jnp.promote_types(p.dtype, jnp.float32)), params)
    aux = method.advance(latents, method.init(latents, _noise(jnp.uint32(2**32 - 1))), 0)
    second = SECOND.init(aux.trained) if jax.tree.leaves(aux.trained) else ()
    carry = (latents, aux, optimizer.init(latents), second)

    def effective(latents: Any, aux: Any, step: Any) -> Any:
        values = method.apply(latents, aux, _noise(step))
        return jax.tree.map(lambda v, dtype: v.astype(dtype), values, dtypes)

    def step(carry: Any, index: Any) -> tuple[Any, Any]:
        latents, aux, first, second = carry

        def loss(latents: Any, trained: Any) -> Any:
            here = aux._replace(trained=trained)
            return mlp_loss(effective(latents, here, index), index) + method.penalty(latents, here)

        seen = effective(latents, aux, index)
        grads, aux_grads = jax.grad(loss, (0, 1))(latents, aux.trained)
        updates, first = optimizer.update(grads, first, latents)
        latents, trained = optax.apply_updates(latents, updates), aux.trained
        if jax.tree.leaves(trained):
            updates, second = SECOND.update(aux_grads, second, trained)
            trained = optax.apply_updates(trained, updates)
        aux = method.advance(latents, aux._replace(trained=trained), index + 1)
        return (latents, aux, first, second), seen

    return carry, step


def ours(optimizer: Any, method: sparsejax.parametrizations.Parametrization, params: Any) -> tuple[Any, Any]:
    """The unchanged training loop: ``(carry, step)``."""
    tx = sparsejax.reparametrize(optimizer, method, aux_optimizer=SECOND, key=KEY)

    def step(carry: Any, index: Any) -> tuple[Any, Any]:
        params, state = carry
        updates, state = tx.update(jax.grad(mlp_loss)(params, index), state, params)
        return (optax.apply_updates(params, updates), state), params

    return sparsejax.init(tx, params), step


def _scan(made: tuple[Any, Any], steps: int) -> Any:
    carry, step = made
    return jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(steps)))(carry)


# What is compiled takes all the time. By default: a hard and a soft mask of trained scores, and gates with noise and a
# penalty; these and all others meet plain autodiff again under the optimizers below.
VARIANTS = ("straight_through", "straight_through_nm", "movement_block", "l0_neurons", "cofi")


@pytest.mark.parametrize("steps", [200, pytest.param(1_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in VARIANTS else name for name in METHODS]
)
def test_equals_plain_autodiff_in_float64(name: str, steps: int):
    with jax.enable_x64(True):
        params = mlp_params(jnp.float64)
        optimizer = optax.adamw(1e-3)
        (_, state), seen = _scan(ours(optimizer, METHODS[name](), params), steps)
        (latents, *_), expected = _scan(plain(optimizer, METHODS[name](), params), steps)
        chex_close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
        jax.tree.map(chex_close, seen, expected)
        jax.tree.map(chex_close, state.latents, latents)
        moved = np.abs(np.asarray(expected["body"]["kernel"][-1] - expected["body"]["kernel"][0])).max()
        assert moved > 0.1
        zeros = np.asarray(expected["body"]["kernel"] == 0)
        assert (zeros[1:] != zeros[:-1]).any(axis=(1, 2)).sum() >= 3, "masks or gates changed"


def _states(opt_state: Any) -> list[sparsejax.transforms.ReparametrizeState]:
    is_state = lambda node: isinstance(node, sparsejax.transforms.ReparametrizeState)  # noqa: E731
    return [node for node in jax.tree.leaves(opt_state, is_leaf=is_state) if is_state(node)]


INSIDE = [name for name in SETUPS if not name.endswith(("outside", "outside_float32", "part"))]


def _method_for(setup: str, others: int = 0) -> str:
    """Each optimizer meets one method here and each method several optimizers; all pairs are among the slow."""
    names = list(METHODS)
    return names[(list(SETUPS).index(setup) + others) % len(names)]


def _check_optimizer(setup: str, method: str) -> None:
    optimizers = []

    def build(optimizer: Any) -> Any:
        optimizers.append(optimizer)
        return sparsejax.reparametrize(optimizer, METHODS[method](), aux_optimizer=SECOND, key=KEY)

    tx = SETUPS[setup].make(build)
    dtype = jnp.float32
    params, state = sparsejax.init(tx, mlp_params(dtype))
    carry, step = plain(optimizers[0], METHODS[method](), mlp_params(dtype))
    for index in range(5):
        carry, expected = step(carry, index)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6), params, expected)
        updates, state = tx.update(jax.grad(mlp_loss)(params, index), state, params)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("setup", INSIDE)
def test_equals_plain_autodiff_under_every_optimizer(setup: str):
    _check_optimizer(setup, _method_for(setup))


@pytest.mark.slow
@pytest.mark.parametrize("others", range(1, len(METHODS)))
@pytest.mark.parametrize("setup", INSIDE)
def test_equals_plain_autodiff_under_every_optimizer_and_method(setup: str, others: int):
    _check_optimizer(setup, _method_for(setup, others))


def _assert_landed(params: Any, before: Any, effective: Any) -> None:
    """Within one ulp of the larger of both values, and exactly on zero."""
    for (path, got), (_, old), (_, want) in zip(
        *(jax.tree_util.tree_leaves_with_path(t) for t in (params, before, effective)), strict=True
    ):
        assert got.dtype == old.dtype
        near = jnp.maximum(jnp.abs(old), jnp.abs(want.astype(got.dtype)))
        ulp = np.asarray(jnp.nextafter(near, jnp.asarray(jnp.inf, near.dtype)) - near, np.float32)
        error = np.abs(np.asarray(got, np.float32) - np.asarray(want, np.float32))
        assert (error <= ulp).all(), (path, float((error / ulp).max()))
        zero = np.asarray(want) == 0
        assert not np.asarray(got)[zero].any(), path


# Where gradients are bfloat16 and updates float32, `apply_if_finite`'s cond has branches of two types.
FINITE = [name for name in SETUPS if name.startswith("finite") and name.endswith("outside")]
LANDING = [(s, d) for d in (jnp.float32, jnp.bfloat16) for s in SETUPS if d == jnp.float32 or s not in FINITE]


# By default every optimizer in one type, two in the one and two in the other, so that both methods below meet both.
ONE_TYPE = [
    (s, d) for s, d in LANDING if s in FINITE or (d == jnp.bfloat16) == (list(SETUPS).index(s) // 2 % 2 == 1)
]


@pytest.mark.parametrize(("setup", "dtype"), ONE_TYPE)
def test_lands_on_the_effective_parameters(setup: str, dtype: Any):
    _check_landing(setup, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("setup", "dtype"), [pair for pair in LANDING if pair not in ONE_TYPE])
def test_lands_on_the_effective_parameters_in_the_other_type(setup: str, dtype: Any):
    _check_landing(setup, dtype)


def _check_landing(setup: str, dtype: Any):
    made = SETUPS[setup]
    # Noise is drawn with other rounding inside a compiled step; masks are the same to the bit.
    method = METHODS["movement" if made.jit or list(SETUPS).index(setup) % 2 else "l0_weights"]

    def build(optimizer: Any, **options: Any) -> Any:
        given = {"allocation": sparsejax.distributions.Allocation(**options)} if options else {}
        return sparsejax.reparametrize(optimizer, method(**given), aux_optimizer=SECOND, key=KEY)

    tx = made.make(build)
    params, state = sparsejax.init(tx, mlp_params(dtype))
    update = jax.jit(tx.update) if made.jit else tx.update
    zeros = 0
    for index in range(3 * made.micro):
        before = params
        updates, state = update(jax.grad(mlp_loss)(params, index), state, params)
        params = optax.apply_updates(params, updates)
        for part in _states(state):
            effective = _of_part(params, part)
            _assert_landed(effective[0], _of_part(before, part)[0], effective[1])
        zeros = sum(int((leaf == 0).sum()) for leaf in kernels(params).values())
    assert zeros > 5


def test_apply_if_finite_outside_bfloat16_parameters_fails_at_once():
    tx = sparsejax.reparametrize(optax.sgd(0.1), sparsejax.parametrizations.straight_through(0.5))
    tx = optax.apply_if_finite(tx, 5)
    params, state = sparsejax.init(tx, mlp_params(jnp.bfloat16))
    with pytest.raises(TypeError, match="float32"):
        tx.update(params, state, params)


def _of_part(params: Any, part: sparsejax.transforms.ReparametrizeState) -> tuple[list[Any], list[Any]]:
    new = flatten_with_paths(effective_params(part))[1]
    pairs = [(p, e) for p, e in zip(jax.tree.leaves(params), new, strict=True) if not is_masked_node(e)]
    return [p for p, _ in pairs], [e for _, e in pairs]
