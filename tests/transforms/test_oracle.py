"""Sparse Adam written once more in NumPy, from the papers: gradients, exchange, moments, update."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.helpers import KEY, full_masks, kernels, scan

STEPS, EVERY, ALPHA, STOP = 80, 10, 0.3, 60
RATE, B1, B2, EPS, DECAY = 0.01, 0.9, 0.999, 1e-8, 0.05
F32 = np.float32
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 10)).astype(F32)
Y = RNG.normal(size=(32, 3)).astype(F32)
START = {
    "one/kernel": (RNG.normal(size=(10, 14)) / 3).astype(F32),
    "two/kernel": (RNG.normal(size=(14, 3)) / 3).astype(F32),
}


def _nest(flat: dict) -> dict:
    return {name: {"kernel": jnp.asarray(flat[f"{name}/kernel"])} for name in ("one", "two")}


def _numpy_grads(params: dict) -> dict:
    before = X @ params["one/kernel"]
    hidden = np.maximum(before, 0)
    error = (2 / Y.size * (hidden @ params["two/kernel"] - Y)).astype(F32)
    back = (error @ params["two/kernel"].T) * (before > 0)
    return {"one/kernel": X.T @ back, "two/kernel": hidden.T @ error}


class _SparseAdam:
    """AdamW of one layer that exists on its mask only."""

    def __init__(self, param: np.ndarray, mask: np.ndarray):
        self.param, self.mask = param * mask, mask
        self.mu, self.nu = np.zeros_like(param), np.zeros_like(param)

    def step(self, grad: np.ndarray, new: np.ndarray, count: int, hold: bool) -> None:
        lives = self.mask & new
        grad = np.where(lives, grad, 0).astype(F32)
        self.mu = np.where(lives, B1 * self.mu + (1 - B1) * grad, 0).astype(F32)
        self.nu = np.where(lives, B2 * self.nu + (1 - B2) * grad**2, 0).astype(F32)
        if not hold:
            mean = self.mu / (1 - F32(B1) ** F32(count))
            root = np.sqrt(self.nu / (1 - F32(B2) ** F32(count)))
            self.param = (self.param - RATE * (mean / (root + EPS) + DECAY * self.param)).astype(F32)
        self.param = np.where(lives, self.param, 0).astype(F32)
        self.mask = new


Layers = dict[str, _SparseAdam]
History = list[tuple[dict, dict, dict]]  # gradients before the step; parameters and masks after it


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """The highest scores by sorting, ties to the lowest index."""
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


def _exchange(layer: _SparseAdam, grad: np.ndarray, step: int) -> np.ndarray:
    """Algorithm 1 of RigL."""
    fraction = ALPHA / 2 * (1 + np.cos(np.pi * step / STOP))
    count = int(fraction * layer.mask.sum())
    active, size = layer.mask.ravel(), np.abs(layer.param).ravel()
    alive = _best(np.where(active, size, -1), active.sum() - count)
    grown = _best(np.where(alive, -1, np.abs(grad).ravel()), count)
    return (alive | grown).reshape(grad.shape)


def _run_numpy(
    masks: dict, decide: Callable[[Layers, dict, int], dict], hold: Callable[[int], bool]
) -> History:
    layers = {path: _SparseAdam(START[path], masks[path]) for path in START}
    history = []
    for step in range(STEPS):
        grads = _numpy_grads({path: layer.param for path, layer in layers.items()})
        new = decide(layers, grads, step)
        for path, layer in layers.items():
            layer.step(grads[path], new[path], step + 1, hold(step))
        params = {path: layer.param for path, layer in layers.items()}
        history.append((grads, params, new))
    return history


def _compare(tx: Any, history: History) -> None:
    """Masks to the bit, parameters to float32 rounding, at every step of the same gradients."""
    changes = sum((a["one/kernel"] != b["one/kernel"]).any() for (*_, a), (*_, b) in pairwise(history))
    assert changes >= 4
    grads = [_nest(step_grads) for step_grads, _, _ in history]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *grads)
    pick = lambda params, step: jax.tree.map(lambda leaf: leaf[step], stacked)  # noqa: E731
    params, masks = jax.device_get(scan(tx, _nest(START), STEPS, pick))
    for step, (_, expected, expected_masks) in enumerate(history):
        now, on = (jax.tree.map(lambda leaf, step=step: leaf[step], values) for values in (params, masks))
        for path, leaf in kernels(now).items():
            np.testing.assert_array_equal(
                full_masks(on, now)[path], expected_masks[path], f"{path} at {step}"
            )
            np.testing.assert_allclose(
                leaf, expected[path], rtol=1e-6, atol=1e-7, err_msg=f"{path} at {step}"
            )


def _adamw() -> optax.GradientTransformation:
    return optax.adamw(RATE, B1, B2, EPS, weight_decay=DECAY)


def test_rigl():
    tx = sparsejax.rigl(
        _adamw(), sparsity=0.6, total_steps=STEPS, update_every=EVERY, drop_fraction=ALPHA, key=KEY
    )
    params, state = sparsejax.init(tx, _nest(START))

    def due(step: int) -> bool:
        return 0 < step < STOP and step % EVERY == 0

    def decide(layers: Layers, grads: dict, step: int) -> dict:
        return {p: _exchange(x, grads[p], step) if due(step) else x.mask for p, x in layers.items()}

    _compare(tx, _run_numpy(full_masks(sparsejax.get_masks(state), params), decide, due))


@pytest.mark.parametrize("competing", [False, True], ids=["uniform", "global"])
def test_gmp(competing: bool):
    """To 80 % from step 10 to step 60; the layers ranked one by one, or all together."""
    shares = sparsejax.distributions.global_threshold() if competing else None
    tx = sparsejax.gmp(
        _adamw(), sparsity=0.8, begin_step=10, end_step=STOP, update_every=EVERY, distribution=shares
    )

    def decide(layers: Layers, grads: dict, step: int) -> dict:
        if not (10 <= step <= STOP and step % EVERY == 0):
            return {path: layer.mask for path, layer in layers.items()}
        density = 1 - 0.8 * (1 - (1 - (step - 10) / (STOP - 10)) ** 3)
        sizes = {path: np.abs(layer.param).ravel() for path, layer in layers.items()}
        if competing:
            together = np.concatenate(list(sizes.values()))
            chosen = np.split(_best(together, round(density * together.size)), [sizes["one/kernel"].size])
        else:
            chosen = [_best(size, round(density * size.size)) for size in sizes.values()]
        return {p: mask.reshape(layers[p].mask.shape) for p, mask in zip(layers, chosen, strict=True)}

    dense = {path: np.ones(leaf.shape, bool) for path, leaf in START.items()}
    _compare(tx, _run_numpy(dense, decide, lambda step: False))
