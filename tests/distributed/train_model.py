"""A convolution, attention and a scanned stack of layers, trained under jit on a sharded batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import sparsejax
from tests.distributed import hlo, layouts

_SHAPES = {
    "Conv_0/kernel": ((3, 3, 32, 32), P(None, None, "data", "model")),
    "attention/qkv/kernel": ((32, 12, 8), P("data", "model", None)),
    "attention/out/kernel": ((4, 8, 32), P("model", None, "data")),
    "blocks/Dense_0/kernel": ((4, 32, 64), P(None, "data", "model")),
    "blocks/Dense_1/kernel": ((4, 64, 32), P("data", "model", None)),
    "head/kernel": ((32, 16), P("data", None)),
    "head/bias": ((16,), P()),
}
_PRUNED = ("attention/qkv/kernel", "blocks/Dense_0/kernel")
_STEPS, _BATCH = 12, 32


def forward(params: dict[str, jax.Array], images: jax.Array) -> jax.Array:
    """Logits [batch, classes] of images [batch, 8, 8, channels]."""
    x = jax.lax.conv_general_dilated(
        images, params["Conv_0/kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x).reshape(x.shape[0], -1, x.shape[-1])
    q, k, v = jnp.split(jnp.einsum("btd,dhf->bthf", x, params["attention/qkv/kernel"]), 3, axis=2)
    weights = jax.nn.softmax(jnp.einsum("bqhf,bkhf->bhqk", q, k) / 8**0.5)
    x = x + jnp.einsum(
        "bthf,hfd->btd", jnp.einsum("bhqk,bkhf->bqhf", weights, v), params["attention/out/kernel"]
    )

    def block(x: jax.Array, kernels: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return x + jax.nn.gelu(x @ kernels[0]) @ kernels[1], None

    x, _ = jax.lax.scan(block, x, (params["blocks/Dense_0/kernel"], params["blocks/Dense_1/kernel"]))
    return x.mean(1) @ params["head/kernel"] + params["head/bias"]


def _loss(params: dict[str, jax.Array], images: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(forward(params, images), labels).mean()


def _host_values() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    source = np.random.default_rng(5)
    params = {}
    for path, (shape, _) in _SHAPES.items():
        scale = 0.0 if path.endswith("bias") else 0.7 * np.prod(shape[:-1][-3:]) ** -0.5
        params[path] = (source.normal(size=shape) * scale).astype(np.float32)
    images = source.normal(size=(_BATCH, 8, 8, 32)).astype(np.float32)
    return params, images, (images[:, 0, 0, :2] > 0) @ np.array([1, 2])


def run_training(mesh: Mesh | None) -> tuple[dict, dict[str, np.ndarray]]:
    """Trains RigL with real gradients; gives the losses, and what moves between devices beside plain training."""
    put = layouts.placer(mesh)
    host, images, labels = _host_values()
    begin = {path: put(value, _SHAPES[path][1]) for path, value in host.items()}
    batch = put(images, P("data")), put(labels.astype(np.int32), P("data"))
    optimizer = optax.adam(3e-3)
    tx = sparsejax.rigl(
        optimizer,
        sparsity=0.6,
        total_steps=_STEPS,
        update_every=3,
        key=jax.random.key(0),
        prunable=lambda path, leaf: path in _PRUNED,
    )

    def compiled(tx: optax.GradientTransformationExtraArgs, params: dict, state: Any) -> Any:
        def step(
            params: dict, state: Any, images: jax.Array, labels: jax.Array
        ) -> tuple[dict, Any, jax.Array]:
            loss, grads = jax.value_and_grad(_loss)(params, images, labels)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state, loss

        return jax.jit(step).lower(params, state, *batch).compile()

    params, state = sparsejax.init(tx, begin)
    step, losses = compiled(tx, params, state), []
    for _ in range(_STEPS):
        params, state, loss = step(params, state, *batch)
        losses.append(float(loss))
    facts = {"losses": losses, "operations": hlo.operations(step.as_text())}
    if mesh is not None and jax.process_count() == 1:
        plain = compiled(optimizer, begin, optimizer.init(begin))
        facts["plain_operations"] = hlo.operations(plain.as_text())
        facts["moved"] = [
            path
            for path, leaf in params.items()
            if not leaf.sharding.is_equivalent_to(begin[path].sharding, leaf.ndim)
        ]
    masks = sparsejax.get_masks(state)
    arrays = {f"training/mask/{path}": mask for path, mask in masks.items() if mask.ndim}
    return facts, layouts.to_host(arrays)
