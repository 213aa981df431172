"""Draws the README's picture, connections.png:  python docs/images/draw_connections.py

A small network learns handwritten digits under RigL at 95 % sparsity, much as in
colab/01_quickstart.ipynb; drawn is how many connections each pixel has in the first layer,
at the first and at the last step.
"""

import pathlib

import jax
import matplotlib
import numpy as np
import optax
from flax import nnx

import sparsejax
from experiments.data.loading import load_splits
from experiments.models.mlp import MLP

STEPS = 1_500


def first_layer_masks() -> tuple[np.ndarray, np.ndarray]:
    """Trains; returns the first layer's mask, (pixels, neurons), before the first and after the last step."""
    (train,) = load_splits("digits", ("train",))
    graph, params = nnx.split(MLP(inputs=64, widths=(300, 100), classes=10, rngs=nnx.Rngs(0)), nnx.Param)
    tx = sparsejax.rigl(
        optax.adamw(1e-3), sparsity=0.95, total_steps=STEPS, update_every=50, key=jax.random.key(0)
    )
    params, opt_state = sparsejax.init(tx, params)
    first = sparsejax.get_masks(opt_state)

    def loss(params: nnx.State, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = nnx.merge(graph, params)(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params: nnx.State, opt_state: optax.OptState, key: jax.Array) -> tuple:
        batch = train.take(jax.random.randint(key, (128,), 0, train.size))
        updates, opt_state = tx.update(jax.grad(loss)(params, batch.inputs, batch.targets), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for t in range(STEPS):
        params, opt_state = step(params, opt_state, jax.random.fold_in(jax.random.key(1), t))
    return tuple(np.asarray(m["dense_0"]["kernel"][...]) for m in (first, sparsejax.get_masks(opt_state)))


def draw(path: pathlib.Path) -> None:
    """Writes the two heat maps as one PNG."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts = [mask.sum(1).reshape(8, 8) for mask in first_layer_masks()]
    figure, axes = plt.subplots(1, 2, figsize=(5.6, 2.6), layout="constrained")
    for ax, count, name in zip(axes, counts, ("first step", "last step"), strict=True):
        image = ax.imshow(count, cmap="viridis", vmin=0, vmax=max(c.max() for c in counts))
        ax.set(title=f"connections a pixel, {name}", xticks=[], yticks=[])
        ax.title.set_fontsize(9)
    figure.colorbar(image, ax=axes, shrink=0.8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(pathlib.Path(__file__).with_name("connections.png"))
