"""The check that everything comes down to: the shrunk function equals the masked one, with its gradient."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.params.paths import map_with_path
from sparsejax.tracing import Groups, group_masks, prunable_groups, shrink, shrink_tree

# Compiling is most of the time of these tests, and they run each program once. Not with the suite's
# xla_backend_optimization_level=0: there the gradient of a max was seen not to be finite in plain JAX too. (Probably
# a value computed twice is rounded differently, so that nothing equals its maximum; that was not shown.)
FAST = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 1}


def random_keep(groups: Mapping[str, Any], seed: int = 0, normalized: bool = False) -> dict[str, np.ndarray]:
    """Keeps at random between one and all positions of every group; by rows where layers may differ."""
    rng = np.random.default_rng(seed)
    keep = {}
    for name, group in groups.items():
        if group.normalized and not normalized:
            continue
        count = int(rng.integers(1, max(group.size, 2)))
        rows = [
            np.isin(np.arange(group.size), rng.permutation(group.size)[:count])
            for _ in range(group.layers or 1)
        ]
        keep[name] = np.stack(rows) if group.layers and seed % 2 == 0 else rows[0]
    return keep


def random_params(params: Any, seed: int = 1) -> Any:
    """Random numbers in every floating leaf, biases too, so that nothing is zero or equal by chance.

    Takes shapes as well as arrays; variances are positive.
    """
    rng = np.random.default_rng(seed)

    def draw(path: str, leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        sign = 1.0 if path.endswith("var") else rng.choice([-0.6, 1.0], leaf.shape)
        fan_in = max(1, int(np.prod(leaf.shape[:-1]))) if len(leaf.shape) > 1 else 1
        return jnp.asarray(rng.uniform(0.2, 1.0, leaf.shape) * sign * fan_in**-0.5, leaf.dtype)

    return map_with_path(draw, params)


@jax.jit
def masked(params: Any, masks: Any) -> Any:
    return jax.tree.map(lambda p, m: p * m.astype(p.dtype) if m.ndim else p, params, masks)


def value_and_grad(fn: Callable[..., Any], params: Any, *inputs: Any) -> tuple[Any, Any, Any]:
    """Results, and the gradients of a random combination of them to the parameters and the first input."""

    def loss(p: Any, first: Any) -> tuple[jax.Array, Any]:
        outs = fn(p, first, *inputs[1:])
        rng = np.random.default_rng(7)
        parts = [jnp.sum(out * rng.normal(size=out.shape)) for out in jax.tree.leaves(outs)]
        return jnp.sum(jnp.asarray(parts)), outs

    floating = jnp.issubdtype(jnp.result_type(inputs[0]), jnp.floating)
    both = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1) if floating else 0, has_aux=True), compiler_options=FAST
    )
    (_, outs), grads = both(params, inputs[0])
    return outs, *(grads if floating else (grads, None))


def assert_close(a: Any, b: Any, tolerance: float = 2e-5) -> None:
    """Leaf by leaf, to a tolerance relative to the largest element."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        chex.assert_equal_shape([x, y])
        chex.assert_tree_all_finite([x, y])
        scale = max(1.0, float(np.abs(y).max(initial=0.0)))
        np.testing.assert_allclose(np.asarray(x) / scale, np.asarray(y) / scale, atol=tolerance)


def assert_shrinks(
    fn: Callable[..., Any],
    params: Any,
    *inputs: Any,
    keep: Any = None,
    seed: int = 0,
    tolerance: float = 2e-5,
) -> Groups:
    """Prunes every group that has a masked reference, at random, and compares."""
    groups = prunable_groups(fn, params, inputs)
    keep = random_keep(groups, seed) if keep is None else keep
    masks = group_masks(params, groups, keep)
    outs, grads, moved = value_and_grad(fn, masked(params, masks), *inputs)
    small_fn, small = shrink(fn, params, inputs, groups, keep)
    small_outs, small_grads, small_moved = value_and_grad(small_fn, small, *inputs)
    assert sum(x.size for x in jax.tree.leaves(small)) < sum(x.size for x in jax.tree.leaves(params))
    assert_close(small_outs, outs, tolerance)
    assert_close(small_grads, shrink_tree(grads, groups, keep), tolerance)
    assert_close(small_moved, moved, tolerance)
    return groups
