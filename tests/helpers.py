"""Tiny models, their gradients, and the few questions that most tests ask of parameters, masks and programs."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.params.paths import flatten_with_paths, is_masked_node

KEY = jax.random.key(0)

#: Prunes one layer of `mlp_params` alone, which halves what compiling a mask update costs.
BODY_ONLY = {"head/*": sparsejax.dense}


class Layer(NamedTuple):
    """Containers may nest in any way; this one stands for a user's own."""

    kernel: Any
    bias: Any


def mlp_params(dtype: Any = jnp.float32, seed: int = 0) -> dict:
    """Two dense layers, 16 to 12 to 8; at total sparsity 1/2 Erdős–Rényi keeps 84 and 60 weights."""
    keys = jax.random.split(jax.random.key(seed), 4)

    def draw(key: Any, *shape: int) -> Any:
        return (jax.random.normal(key, shape) / 2).astype(dtype)

    return {
        "body": {"kernel": draw(keys[0], 16, 12), "bias": draw(keys[1], 12)},
        "head": {"kernel": draw(keys[2], 12, 8), "bias": draw(keys[3], 8)},
    }


def mlp_loss(params: dict, step: Any) -> jax.Array:
    """Mean squared error on a batch that depends on the step alone."""
    x, y = batch(step)
    hidden = jnp.tanh(x @ params["body"]["kernel"] + params["body"]["bias"])
    return jnp.mean((hidden @ params["head"]["kernel"] + params["head"]["bias"] - y) ** 2)


def batch(step: Any, size: int = 8) -> tuple[jax.Array, jax.Array]:
    """Random inputs and targets of one step."""
    noise = jax.random.normal(jax.random.fold_in(KEY, step), (size, 24))
    return noise[:, :16], noise[:, 16:]


#: The dense gradient at the present (sparse) parameters.
mlp_grads = jax.jit(jax.grad(mlp_loss))


def train(
    tx: Any, params: Any, steps: int, *, grads: Callable[[Any, Any], Any] = mlp_grads, jit: bool = False
) -> Iterator[tuple[Any, Any]]:
    """The unchanged training loop; yields (params, opt_state), first as `sparsejax.init` returns them."""
    params, state = sparsejax.init(tx, params)
    yield params, state

    def step(params: Any, state: Any, index: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads(params, index), state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step) if jit else step
    for index in range(steps):
        params, state = step(params, state, index)
        yield params, state
    if jit:
        assert step._cache_size() == 1


def scan(tx: Any, params: Any, steps: int, grads: Callable[[Any, Any], Any] = mlp_grads) -> tuple[Any, Any]:
    """The same loop as one `lax.scan` in one jit, `sparsejax.init` included; every step's (params, masks)."""

    def step(carry: tuple[Any, Any], index: Any) -> tuple[Any, Any]:
        params, state = carry
        updates, state = tx.update(grads(params, index), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, sparsejax.get_masks(state))

    @jax.jit
    def run(params: Any) -> Any:
        return jax.lax.scan(step, sparsejax.init(tx, params), jnp.arange(steps))[1]

    return run(params)


def kernels(values: Any) -> dict[str, np.ndarray]:
    """The prunable leaves of a params-like tree, by path, on the host."""
    paths, leaves, _ = flatten_with_paths(values)
    chosen = {p: np.asarray(x) for p, x in zip(paths, leaves, strict=True) if not is_masked_node(x)}
    return {path: leaf for path, leaf in chosen.items() if leaf.ndim >= 2}


def full_masks(masks: Any, params: Any) -> dict[str, np.ndarray]:
    """The masks of the prunable leaves, by path, broadcast to their parameters."""
    shapes = {path: leaf.shape for path, leaf in kernels(params).items()}
    return {path: np.broadcast_to(mask, shapes[path]) for path, mask in kernels(masks).items()}


def assert_on_masks(params: Any, masks: dict[str, np.ndarray]) -> None:
    """Every bit of every parameter off its mask is zero, the sign bit too."""
    for path, leaf in kernels(params).items():
        if path in masks:
            off = leaf[~masks[path]]
            assert not np.any(off.view(f"u{off.dtype.itemsize}")), path


def sparsify_state(opt_state: Any) -> sparsejax.transforms.SparsifyState:
    """The one `SparsifyState` in an optimizer state."""
    is_state = lambda node: isinstance(node, sparsejax.transforms.SparsifyState)  # noqa: E731
    (found,) = [node for node in jax.tree.leaves(opt_state, is_leaf=is_state) if is_state(node)]
    return found


def primitives(jaxpr: Any, inside: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each equation's primitive with the primitives it lies in."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        yield name, inside
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from primitives(inner, (*inside, name))


def conds(function: Callable[..., Any], *args: Any) -> int:
    """How many cond primitives a function's jaxpr holds, those inside another's branches not counted."""
    closed = jax.make_jaxpr(function)(*args)
    return sum(name == "cond" and "cond" not in inside for name, inside in primitives(closed.jaxpr))


def assert_wrong_kinds_are_refused(
    function: Callable[..., Any], call: Callable[..., Any], free: tuple[str, ...] = ()
) -> None:
    """Every keyword; and nothing but whole numbers counts steps: ``range(nan)`` or ``i < 1.5`` would not complain.

    Args:
      function: whose keywords are tried.
      call: calls it with one of them wrong.
      free: keywords that take anything, or that nothing reads here.
    """
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY or name in free:
            continue
        whole = parameter.annotation in (int, int | None)
        number = parameter.annotation in (float, float | None)
        wrong_ones = (1.5, np.nan, -1, "3", True) if whole else (np.nan, "3", True) if number else ()
        for wrong in (object(), [None], *wrong_ones):
            with pytest.raises(sparsejax.errors.SparsejaxError):  # `pytest -l` shows which passed
                call(**{name: wrong})
