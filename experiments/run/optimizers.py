"""From a configuration to its plain optimizer: the learning-rate schedule, weight decay, clipping."""

from collections.abc import Callable
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

    tx = OPTIMIZERS[config.optimizer](config, rate, mask)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), tx) if config.clip_norm else tx


def _adamw(config: ConfigDict, rate: optax.Schedule, mask: Any) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=config.weight_decay, mask=mask)


def _sgd(config: ConfigDict, rate: optax.Schedule, mask: Any) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(config.weight_decay, mask)
    return optax.chain(decay, optax.sgd(rate, momentum=config.momentum or None))


#: What `config.optimizer` names: ``(config, learning rate, which leaves decay) -> optimizer``.
OPTIMIZERS: dict[str, Callable[[ConfigDict, optax.Schedule, Any], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "sgd": _sgd,
}


def falls(config: ConfigDict) -> list[int]:
    """Gives the steps at which the learning rate falls to a tenth.

    Args:
      config: ``decay_steps`` holds steps, or shares below 1 of ``steps``, of a run that was extended those of its
        first end.

    Returns:
      The steps.

    Example:
      >>> falls(ConfigDict({"decay_steps": (0.3, 70), "steps": 100}))
      [30, 70]
    """
    steps = (*config.get("extended", ()), config.steps)[0]
    return [round(at * steps) if at < 1 else at for at in config.decay_steps]


def restarts(config: ConfigDict) -> list[int]:
    """Gives the earlier ends of an extended run at which the learning rate begins anew, as it had come to 0 there.

    Args:
      config: a valid configuration.

    Returns:
      The steps; none with `decay_steps`, whose last rate holds, nor where `schedule_steps` lies beyond the ends.

    Example:
      >>> fields = {"extended": (100,), "steps": 150, "schedule_steps": 100, "decay_steps": (), "skip_steps": 0}
      >>> restarts(ConfigDict(fields))
      [100]
    """
    ends = () if config.decay_steps else config.extended
    return [end for end in ends if end + config.skip_steps >= config.schedule_steps]


def rate_shape(config: ConfigDict) -> optax.Schedule:
    """Makes the learning rate's schedule as a share of its peak.

    Where a run whose rate had come to 0 was extended, warm-up and cosine come again, as long as the extension is.

    Args:
      config: a valid configuration.

    Returns:
      ``step -> share``.

    Source: the restart is that of Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv
    1608.03983, equation 5, with a warm-up of the first schedule's share before it.
    """
    if not config.decay_steps:
        anew = restarts(config)
        lengths = [after - end for end, after in zip(anew, [*anew, config.steps][1:], strict=True)]
        cosines = [_cosine(config.warmup_steps, config.schedule_steps)]
        cosines += [_cosine(config.warmup_steps * n // config.schedule_steps, n) for n in lengths]
        at = [end + config.skip_steps for end in anew]
        return optax.join_schedules(cosines, at) if at else cosines[0]
    stairs = optax.piecewise_constant_schedule(1.0, dict.fromkeys(falls(config), 0.1))

    def shape(step: ArrayLike) -> ArrayLike:
        return stairs(step) * jnp.minimum(1.0, step / max(config.warmup_steps, 1))

    return shape


def _cosine(warmup: int, steps: int) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, steps)


def _kernels(params: Params) -> Any:
    """Which leaves weight decay is for where it is not for all."""
    return map_with_path(lambda path, leaf: path.rsplit("/", 1)[-1] == "kernel", params)
