"""A population whose members lie on different devices: one program, scanned, masks due by an unbatched step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import sparsejax
from tests.distributed import hlo, layouts

MEMBERS = 8
SPARSITIES = np.linspace(0.5, 0.95, MEMBERS)
_SHAPES = {"Dense_0/kernel": (32, 48), "Dense_1/kernel": (48, 16), "Dense_1/bias": (16,)}


def transformation(key: jax.Array) -> optax.GradientTransformationExtraArgs:
    """A member's optimizer: its own key, its own sparsity."""
    return sparsejax.rigl(
        optax.sgd(2.0**-4, momentum=1.0), sparsity=SPARSITIES, total_steps=12, update_every=2, key=key
    )


def run_population(mesh: Mesh | None) -> tuple[dict, dict[str, np.ndarray]]:
    """Trains the population; gives facts and the masks."""
    put = layouts.placer(mesh)
    source = np.random.default_rng(0)
    everyone = P(("data", "model"))

    def draw() -> dict[str, jax.Array]:
        return {
            path: put((source.normal(size=(MEMBERS, *shape)) * 8).round().astype(np.float32) / 8, everyone)
            for path, shape in _SHAPES.items()
        }

    params, grads = draw(), draw()
    keys = put(np.asarray(jax.random.key_data(jax.random.split(jax.random.key(1), MEMBERS))), everyone)

    def begin(keys: jax.Array, params: dict) -> tuple[dict, Any]:
        def member(key: jax.Array, params: dict) -> tuple[dict, Any]:
            return sparsejax.init(transformation(jax.random.wrap_key_data(key)), params)

        return jax.vmap(member, axis_name="population")(keys, params)

    def train(keys: jax.Array, params: dict, state: Any, grads: dict) -> tuple[dict, Any]:
        def step(carry: tuple[dict, Any], number: jax.Array) -> tuple[tuple[dict, Any], None]:
            def member(key: jax.Array, params: dict, state: Any, grads: dict) -> tuple[dict, Any]:
                tx = transformation(jax.random.wrap_key_data(key))
                updates, state = tx.update(grads, state, params, step=number)
                return optax.apply_updates(params, updates), state

            return jax.vmap(member, axis_name="population")(keys, *carry, grads), None

        return jax.lax.scan(step, (params, state), jnp.arange(layouts.STEPS))[0]

    params, state = jax.jit(begin)(keys, params)
    compiled = jax.jit(train).lower(keys, params, state, grads).compile()
    text = compiled.as_text()
    params, state = compiled(keys, params, state, grads)
    masks = {
        path: mask for path, mask in jax.vmap(sparsejax.get_masks)(state).items() if path.endswith("kernel")
    }
    facts = {"operations": hlo.operations(text), "conditionals": text.count(" conditional(")}
    for kind, arrays in {"params": params, "masks": masks}.items():
        facts[kind] = {path: layouts.parts(leaf) for path, leaf in arrays.items()}
    gathered = {f"population/mask/{path}": mask for path, mask in masks.items()}
    gathered |= {f"population/param/{path}": leaf for path, leaf in params.items()}
    return facts, layouts.to_host(gathered)
