"""From a configuration to an optimizer: the learning-rate schedule, and the sparse method around it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

from sparsejax import distributions, recipes, schedules, transforms
from sparsejax.schedules import UpdateTimes
from sparsejax.training.mask_meter import dense_masks
from sparsejax.typing import MaskTree, Params


class Method(NamedTuple):
    """An optimizer, sparse or not, and what a run must know of it.

    Attributes:
      tx: the optimizer.
      init: ``params -> (params, opt_state)``, the parameters put on their first masks.
      masks: ``(params, opt_state) -> MaskTree``; all True of a dense run.
      times: the steps at which masks may change; None where they never do.
      dense_gradient: whether mask updates read the gradient of absent weights, which costs FLOPs.
    """

    tx: optax.GradientTransformationExtraArgs
    init: Callable[[Params], tuple[Params, Any]]
    masks: Callable[[Params, Any], MaskTree]
    times: UpdateTimes | None = None
    dense_gradient: bool = False


def build_method(config: ConfigDict, key: jax.Array) -> Method:
    """Builds the optimizer of a configuration.

    Args:
      config: a valid configuration.
      key: draws random masks.

    Returns:
      The method.

    Raises:
      ScheduleError, SparsityError: what the recipe says of numbers that do not go together.

    Example:
      >>> from sparsejax.training.config import default_config
      >>> config = default_config()
      >>> config.method, config.sparsity = "static", 0.9
      >>> build_method(config, jax.random.key(0)).times is None
      True
    """
    inner = build_optimizer(config)
    if config.method == "dense":
        return Method(
            optax.with_extra_args_support(inner),
            lambda params: (params, inner.init(params)),
            lambda params, opt_state: dense_masks(params),
        )
    tx, times = _SPARSE[config.method](config, inner, key)
    return Method(
        tx,
        lambda params: transforms.init(tx, params),
        lambda params, opt_state: transforms.get_masks(opt_state),
        times,
        dense_gradient=config.method == "rigl",
    )


def build_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Builds the inner optimizer: linear warm-up, then a cosine to 0 at the last step.

    Args:
      config: a valid configuration.

    Returns:
      The optax optimizer.
    """
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.warmup_steps, config.steps)
    if config.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=config.weight_decay)
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay), optax.sgd(rate, momentum=config.momentum or None)
    )


_Built = tuple[optax.GradientTransformationExtraArgs, UpdateTimes | None]


def _gmp(config: ConfigDict, inner: optax.GradientTransformation, key: jax.Array) -> _Built:
    del key
    tx = recipes.gmp(
        inner,
        sparsity=config.sparsity,
        begin_step=config.begin_step,
        end_step=config.end_step,
        update_every=config.update_every,
        distribution=_distribution(config),
    )
    return tx, schedules.every(config.update_every, begin=config.begin_step, end=config.end_step)


def _drop_and_grow(config: ConfigDict, inner: optax.GradientTransformation, key: jax.Array) -> _Built:
    recipe = {"rigl": recipes.rigl, "set": recipes.set_}[config.method]
    tx = recipe(
        inner,
        sparsity=config.sparsity,
        total_steps=config.end_step,
        stop_fraction=1.0,
        update_every=config.update_every,
        drop_fraction=config.drop_fraction,
        distribution=_distribution(config),
        key=key,
    )
    return tx, recipes.rigl_times(config.end_step, update_every=config.update_every, stop_fraction=1.0)


def _static(config: ConfigDict, inner: optax.GradientTransformation, key: jax.Array) -> _Built:
    tx = recipes.static_random(inner, sparsity=config.sparsity, distribution=_distribution(config), key=key)
    return tx, None


def _snip(config: ConfigDict, inner: optax.GradientTransformation, key: jax.Array) -> _Built:
    del key
    tx = recipes.snip(inner, sparsity=config.sparsity, distribution=_distribution(config))
    return tx, schedules.every(1, begin=0, end=0)


def _one_shot(config: ConfigDict, inner: optax.GradientTransformation, key: jax.Array) -> _Built:
    del key
    at = config.begin_step
    tx = recipes.one_shot(inner, sparsity=config.sparsity, at_step=at, distribution=_distribution(config))
    return tx, schedules.every(1, begin=at, end=at)


def _ac_dc(config: ConfigDict, inner: optax.GradientTransformation, key: jax.Array) -> _Built:
    del key
    tx = recipes.ac_dc(
        inner,
        sparsity=config.sparsity,
        total_steps=config.steps,
        phase_steps=config.update_every,
        warmup_steps=config.begin_step,
        final_steps=config.steps - config.end_step,
        distribution=_distribution(config),
    )
    return tx, schedules.every(config.update_every, begin=config.begin_step, end=config.end_step)


_SPARSE = {
    "gmp": _gmp,
    "rigl": _drop_and_grow,
    "set": _drop_and_grow,
    "static": _static,
    "snip": _snip,
    "one_shot": _one_shot,
    "ac_dc": _ac_dc,
}


def _distribution(config: ConfigDict) -> distributions.Distribution:
    makers = {
        "uniform": distributions.uniform,
        "erdos_renyi": distributions.erdos_renyi,
        "erdos_renyi_kernel": distributions.erdos_renyi_kernel,
        "global": distributions.global_,
    }
    return makers[config.distribution]()
