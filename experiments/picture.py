"""The picture of the README: how many connections each pixel has at RigL's first and last step.

python -m experiments.picture --out=docs/images/connections.png
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import sparsejax
from experiments.data.loading import load_splits

_STEPS, _BATCH, _SPARSITY, _WIDTHS = 1_500, 128, 0.95, (64, 256, 128, 10)


def _init(key: jax.Array) -> dict[str, dict[str, jax.Array]]:
    keys = jax.random.split(key, len(_WIDTHS) - 1)
    shapes = zip(keys, _WIDTHS[:-1], _WIDTHS[1:], strict=True)
    return {
        f"dense_{i}": {
            "kernel": jax.random.normal(k, (n, m)) * np.sqrt(2 / n).astype(np.float32),
            "bias": jnp.zeros(m),
        }
        for i, (k, n, m) in enumerate(shapes)
    }


def _logits(params: dict[str, dict[str, jax.Array]], images: jax.Array) -> jax.Array:
    x = images.reshape(len(images), -1)
    for i in range(len(params)):
        x = (jax.nn.relu(x) if i else x) @ params[f"dense_{i}"]["kernel"] + params[f"dense_{i}"]["bias"]
    return x


def train_sparse(seed: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
    """Trains a 95 %-sparse network on the handwritten digits.

    Args:
      seed: of the weights, the masks and the batches.

    Returns:
      ``(first, last, accuracy)``: connections of each pixel, int (8, 8), at the first and the last step, and the
      test accuracy in [0, 1].
    """
    train, test = load_splits("digits")
    keys = jax.random.split(jax.random.key(seed), 3)
    tx = sparsejax.rigl(
        optax.adamw(1e-3), sparsity=_SPARSITY, total_steps=_STEPS, update_every=50, key=keys[0]
    )
    params, state = sparsejax.init(tx, _init(keys[1]))
    first = sparsejax.get_masks(state)

    def loss(params: dict[str, dict[str, jax.Array]], batch: object) -> jax.Array:
        logits = _logits(params, batch.inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets).mean()

    @jax.jit
    def step(params: object, state: object, key: jax.Array) -> tuple[object, object]:
        batch = train.take(jax.random.randint(key, (_BATCH,), 0, train.size))
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    for t in range(_STEPS):
        params, state = step(params, state, jax.random.fold_in(keys[2], t))
    everything = test.take(jnp.arange(test.size))
    accuracy = jnp.mean(jnp.argmax(_logits(params, everything.inputs), -1) == everything.targets)
    counts = [
        np.asarray(masks["dense_0"]["kernel"]).sum(1).reshape(8, 8)
        for masks in (first, sparsejax.get_masks(state))
    ]
    return counts[0], counts[1], float(accuracy)


def draw(path: pathlib.Path, first: np.ndarray, last: np.ndarray) -> None:
    """Draws both counts with one scale of colours.

    Args:
      path: the PNG file.
      first: connections of each pixel, (8, 8), at the first step.
      last: at the last step.
    """
    figure, axes = plt.subplots(1, 2, figsize=(5.6, 2.6), layout="constrained")
    for ax, counts, name in zip(axes, (first, last), ("first step", "last step"), strict=True):
        image = ax.imshow(counts, cmap="viridis", vmin=0, vmax=max(first.max(), last.max()))
        ax.set(title=f"connections per pixel, {name}", xticks=[], yticks=[])
        ax.title.set_fontsize(9)
    figure.colorbar(image, ax=axes, shrink=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Trains, draws, and says what came out."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.picture", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/images/connections.png"))
    path = parser.parse_args().out
    print("training a 95 %-sparse network on the digits (about ten seconds)", flush=True)
    first, last, accuracy = train_sparse()
    draw(path, first, last)
    print(
        f"{path}: {first.sum()} connections at the first step, {last.sum()} at the last; accuracy {accuracy:.4f}"
    )


if __name__ == "__main__":
    main()
