"""The orders of pruning and rounding, each a function from a trained network to its integers."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

import sparsejax
from experiments.one_shot.tasks import Task
from experiments.run.towards_dense import train_towards
from sparsejax import post_training as pt
from sparsejax.parametrizations import fake_quant, quantized_params
from sparsejax.parametrizations.integer_grid import is_quantized, to_integers
from sparsejax.params.default_filter import default_prunable
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import MaskTree, Params

#: What an order gives: parameters, with integers for what was rounded, and the masks that the file keeps (None: what
#: is zero is pruned).
Found = tuple[Params, MaskTree | None]
#: Steps between choices of the scales in quantization-aware training.
_SCALES_EVERY = 25


class Bench:
    """A trained network with a draw of calibration data, and what several orders begin with, made once.

    Args:
      task: the network.
      config: of the study.
      draw: of calibration data.
    """

    def __init__(self, task: Task, config: ConfigDict, draw: int) -> None:
        self.task, self.config = task, config
        self.batches = task.calibration(draw)
        self.roles = {
            path: op.roles for path, op in sparsejax.linear_ops(task.fn, task.params, self.batches[0]).items()
        }
        self.exempt = tuple(path for path in config.in_8_bits if path in self.roles)
        paths, leaves, _ = flatten_with_paths(task.params)
        self.layers = tuple(
            path
            for path, leaf in zip(paths, leaves, strict=True)
            if path in self.roles and path not in self.exempt and default_prunable(path, leaf)
        )
        self.pruned = functools.cache(self._pruned)
        self.rounded = functools.cache(self._rounded)
        self.tuned = functools.cache(self._tuned)

    def prune(self, params: Params, method: str, sparsity: float) -> Found:
        """Prunes some parameters by "sparsegpt", which repairs those that stay, or "wanda", which leaves them."""
        solve = {"sparsegpt": pt.sparsegpt, "wanda": pt.wanda}[method]
        with _quietly():
            found = solve(self.task.fn, params, self.batches, sparsity=sparsity, ignore=self.exempt)
        return found.params, found.masks

    def quantize(
        self, params: Params, masks: MaskTree | None, bits: int, sparsity: float | None = None
    ) -> pt.QuantizedModel:
        """GPTQ on masks, or jointly with pruning."""
        with _quietly():
            return pt.gptq(
                self.task.fn, params, self.batches, bits,
                masks=masks, sparsity=sparsity, quantizable=lambda path, leaf: path in self.layers,
            )  # fmt: skip

    def train(self, params: Params, wrap: Callable[[Any], Any]) -> tuple[Params, Any]:
        """Adam on a cosine towards the dense network's outputs; `wrap` puts masks or a grid around it."""
        config = self.config
        rate = optax.cosine_decay_schedule(config.learning_rate, config.tune_steps)
        return train_towards(
            self.task.fn, wrap(optax.adam(rate)), params, *self._items,
            steps=config.tune_steps, batch_size=config.tune_batch,
        )  # fmt: skip

    def aware(self, params: Params, masks: MaskTree | None, bits: int) -> Params:
        """Quantization-aware training; without masks all weights are trained."""
        grid = fake_quant(
            bits, masks=masks, update_every=_SCALES_EVERY,
            quantizable=lambda path, leaf: path in self.layers, axes=self.roles,
        )  # fmt: skip
        _, state = self.train(params, lambda inner: sparsejax.reparametrize(inner, grid))
        return quantized_params(state)

    def finished(self, params: Params) -> Params:
        """Puts what is to have 8 bits in 8 bits."""
        eight = dict.fromkeys(self.config.in_8_bits, pt.IntegerFormat(8))
        roles = {path: self.roles[path] for path in self.exempt}
        none = lambda path, leaf: False  # noqa: E731
        return pt.quantize(params, quantizable=none, overrides=eight, axes=roles) if eight else params

    @functools.cached_property
    def _items(self) -> tuple[np.ndarray, np.ndarray]:
        """All calibration items, with the dense network's outputs."""
        program = jax.jit(self.task.fn)
        outputs = [np.asarray(program(self.task.params, batch)) for batch in self.batches]
        return np.concatenate(self.batches), np.concatenate(outputs)

    def _pruned(self, method: str, sparsity: float) -> Found:
        return self.prune(self.task.params, method, sparsity)

    def _rounded(self, bits: int) -> Params:
        return self.quantize(self.task.params, None, bits).params

    def _tuned(self, sparsity: float) -> Found:
        params, masks = self.pruned("sparsegpt", sparsity)
        fixed = sparsejax.rules.fixed_masks(masks)
        return self.train(params, lambda inner: sparsejax.sparsify(inner, fixed))[0], masks


def _quietly() -> Any:
    """Few rows, damping that was raised: the test items tell what it came to."""
    return warnings.catch_warnings(action="ignore", category=pt.CalibrationWarning)


def _prune_then_quantize(bench: Bench, sparsity: float, bits: int, method: str) -> Found:
    params, masks = bench.pruned(method, sparsity)
    return bench.quantize(params, masks, bits).params, masks


def _quantize_then_prune(bench: Bench, sparsity: float, bits: int, method: str) -> Found:
    """Masks are chosen on what the integers stand for; what repair moved is rounded on the grid that was there."""
    rounded = bench.rounded(bits)
    params, masks = bench.prune(pt.dequantize(rounded), method, sparsity)

    def again(q: Any, weights: Any) -> Any:
        if not is_quantized(q):
            return weights
        values = to_integers(weights, q.scale, q.zero_point, q.bits)
        return pt.QuantizedTensor(values, q.scale, q.zero_point, q.bits, q.dtype)

    return jax.tree.map(again, rounded, params, is_leaf=is_quantized), masks


def _joint(bench: Bench, sparsity: float, bits: int) -> Found:
    found = bench.quantize(bench.task.params, None, bits, sparsity)
    return found.params, found.masks


def _tuned_then_quantize(bench: Bench, sparsity: float, bits: int) -> Found:
    params, masks = bench.tuned(sparsity)
    return bench.quantize(params, masks, bits).params, masks


def _aware(bench: Bench, sparsity: float, bits: int, *, kept: bool) -> Found:
    params, masks = bench.pruned("sparsegpt", sparsity)
    return bench.aware(params, masks if kept else None, bits), masks if kept else None


#: ``(bench, sparsity, bits) -> parameters and masks``. The first five train nothing; of the last three the first is the
#: control of the others: as many steps, rounded afterwards.
ORDERS: dict[str, Callable[[Bench, float, int], Found]] = {
    "Wanda, then GPTQ": functools.partial(_prune_then_quantize, method="wanda"),
    "GPTQ, then Wanda": functools.partial(_quantize_then_prune, method="wanda"),
    "SparseGPT, then GPTQ": functools.partial(_prune_then_quantize, method="sparsegpt"),
    "GPTQ, then SparseGPT": functools.partial(_quantize_then_prune, method="sparsegpt"),
    "SparseGPT + GPTQ, jointly": _joint,
    "SparseGPT, tuned, GPTQ": _tuned_then_quantize,
    "SparseGPT, QAT, zeros kept": functools.partial(_aware, kept=True),
    "SparseGPT, QAT, zeros free": functools.partial(_aware, kept=False),
}
#: What only one step was taken of: the float weights that are left, and the integers of all weights.
ALONE = {
    "pruned alone": lambda bench, sparsity, bits: bench.pruned("sparsegpt", sparsity),
    "rounded alone": lambda bench, sparsity, bits: (bench.rounded(bits), None),
}


def find_order(name: str) -> Callable[[Bench, float, int], Found]:
    """An order, or one of its steps alone, by name."""
    return {**ORDERS, **ALONE}[name]
