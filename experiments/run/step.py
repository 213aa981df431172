"""The training step as a pure function of one run's state, and its gradient in one piece or in several."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.data.split import Batch
from experiments.run.mask_meter import MaskMeter
from experiments.run.objective import Objective
from experiments.run.state import TrainState
from sparsejax.kernels import CompressedTransformation, with_probes
from sparsejax.typing import Params


class StepMetrics(NamedTuple):
    """What a step reports; a chunk stacks them along a leading axis of steps, a population after that.

    Attributes:
      loss: float32 scalar, mean over the batch, before the update.
      accuracy: float32 scalar, over the batch, before the update.
      kept: int32 (layers,), weights kept of each prunable leaf while the step computed its gradient.
      changed: int32 scalar, mask entries that this step flipped.
    """

    loss: jax.Array
    accuracy: jax.Array
    kept: jax.Array
    changed: jax.Array


def train_step(
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    meter: MaskMeter,
    state: TrainState,
    batch: Batch,
    *,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    batch_sharding: NamedSharding | None = None,
) -> tuple[TrainState, StepMetrics]:
    """Takes one step of one run.

    Args:
      objective: what to differentiate.
      tx: any optimizer; sparse ones need nothing more.
      meter: reads masks out of the optimizer's states.
      state: before the step.
      batch: its examples.
      accumulate: parts that the batch is cut into to save memory; divides the batch.
      ema_decay: β of ``ema ← β·ema + (1 − β)·params``; 0 keeps no average.
      batch_sharding: how a batch lies on several devices; each part of it will lie so.

    Returns:
      The state after the step, and what to report.
    """
    parts = batch if accumulate == 1 else _cut(batch, accumulate, batch_sharding)
    loss, accuracy, stats, grads = _gradient(objective, state.params, state.batch_stats, parts, accumulate)
    extra = {}
    if isinstance(tx, CompressedTransformation) and tx.reads_gradient:

        def dense_grads() -> Params:
            return _gradient(objective, with_probes(state.params), state.batch_stats, parts, accumulate)[3]

        extra["dense_grads_fn"] = dense_grads
    # `step` is passed so that the mask update stays a cond when runs are batched with vmap.
    updates, opt_state = tx.update(grads, state.opt_state, state.params, step=state.step, **extra)
    params = optax.apply_updates(state.params, updates)
    kept, changed = meter.measure(state.step, state.kept, state.opt_state, opt_state)
    ema = optax.incremental_update(params, state.ema, 1 - ema_decay) if ema_decay else state.ema
    after = TrainState(params, stats, opt_state, ema, kept, state.step + 1)
    return after, StepMetrics(loss, accuracy, state.kept, changed)


def _cut(batch: Batch, parts: int, sharding: NamedSharding | None) -> Batch:
    """The batch in parts, along a new first axis; every device has its share of each part."""
    # Part i takes every parts-th example: of a batch that lies on many devices, each holds its share of it.
    cut = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), batch)
    if sharding is None:
        return cut
    return jax.lax.with_sharding_constraint(cut, NamedSharding(sharding.mesh, P(None, *sharding.spec)))


def _gradient(
    objective: Objective, params: Params, stats: Any, batch: Batch, parts: int
) -> tuple[jax.Array, jax.Array, Any, Params]:
    differentiate = _with_float_gradient(jax.value_and_grad(objective.train, has_aux=True, allow_int=True))
    if parts == 1:
        (loss, (stats, accuracy)), grads = differentiate(params, stats, batch)
        return loss, accuracy, stats, grads

    def add(carry: tuple[Any, ...], part: Batch) -> tuple[tuple[Any, ...], None]:
        stats, *sums = carry
        (loss, (stats, accuracy)), grads = differentiate(params, stats, part)
        return (stats, *jax.tree.map(jnp.add, sums, [loss, accuracy, grads])), None

    zeros = (jnp.float32(0), jnp.float32(0), jax.tree.map(_zeros_like_gradient, params))
    (stats, *sums), _ = jax.lax.scan(add, (stats, *zeros), batch)
    loss, accuracy, grads = jax.tree.map(lambda total: total / parts, sums)
    return loss, accuracy, stats, grads


def _zeros_like_gradient(param: jax.Array) -> jax.Array:
    return jnp.zeros(param.shape, param.dtype if jnp.issubdtype(param.dtype, jnp.inexact) else jnp.float32)


def _with_float_gradient(differentiate: Callable[..., Any]) -> Callable[..., Any]:
    """Gives integer parameters (where live blocks stand) zeros, so that gradients can be added up like any others."""

    def number(gradient: Any, param: jax.Array) -> jax.Array:
        return jnp.zeros(param.shape) if gradient.dtype == jax.dtypes.float0 else gradient

    def call(params: Params, *rest: Any) -> Any:
        value, grads = differentiate(params, *rest)
        return value, jax.tree.map(number, grads, params)

    return call
