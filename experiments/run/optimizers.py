"""From a configuration to its plain optimizer: the learning-rate schedule, weight decay, clipping."""

from typing import Any

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from sparsejax.params.paths import map_with_path
from sparsejax.typing import Params


def build_optimizer(config: ConfigDict, learning_rate: ArrayLike) -> optax.GradientTransformation:
    """Builds the inner optimizer: linear warm-up, then a cosine to 0 at step
    `config.schedule_steps`, or falls to a tenth at `config.decay_steps`.

    Args:
      config: a valid configuration.
      learning_rate: the peak; it may be traced.

    Returns:
      The optax optimizer.
    """
    shape = rate_shape(config)
    mask = None if config.decay_all else _kernels

    def rate(step: ArrayLike) -> ArrayLike:
        return learning_rate * shape(step + config.skip_steps)

    if config.optimizer == "adamw":
        tx = optax.adamw(rate, weight_decay=config.weight_decay, mask=mask)
    else:
        tx = optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask),
            optax.sgd(rate, momentum=config.momentum or None),
        )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), tx) if config.clip_norm else tx


def rate_shape(config: ConfigDict) -> optax.Schedule:
    """Makes the learning rate's schedule as a share of its peak.

    Args:
      config: a valid configuration.

    Returns:
      ``step -> share``.
    """
    if not config.decay_steps:
        return optax.warmup_cosine_decay_schedule(0.0, 1.0, config.warmup_steps, config.schedule_steps)
    falls = optax.piecewise_constant_schedule(1.0, dict.fromkeys(config.decay_steps, 0.1))

    def shape(step: ArrayLike) -> ArrayLike:
        return falls(step) * jnp.minimum(1.0, step / max(config.warmup_steps, 1))

    return shape


def _kernels(params: Params) -> Any:
    """Which leaves weight decay is for where it is not for all."""
    return map_with_path(lambda path, leaf: path.rsplit("/", 1)[-1] == "kernel", params)
