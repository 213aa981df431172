"""From a configuration to an optimizer: the learning-rate schedule, and the sparse method around it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from sparsejax import distributions, layers, recipes, schedules, transforms, tree
from sparsejax.schedules import UpdateTimes
from sparsejax.training.mask_meter import dense_masks
from sparsejax.training.state import Member
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


def build_method(config: ConfigDict, member: Member, sparsity: ArrayLike | None = None) -> Method:
    """Builds the optimizer of a configuration.

    Args:
      config: a valid configuration.
      member: gives the learning rate and draws random masks; it may be traced.
      sparsity: instead of `config.sparsity`; an array has one value for each member of a population.

    Returns:
      The method.

    Raises:
      ScheduleError, SparsityError: what the recipe says of numbers that do not go together.

    Example:
      >>> from sparsejax.training import default_config, make_member
      >>> config = default_config()
      >>> config.method, config.sparsity = "static", 0.9
      >>> build_method(config, make_member(0, 0.1)).times is None
      True
    """
    inner = build_optimizer(config, member.learning_rate)
    if config.method == "dense":
        return Method(
            optax.with_extra_args_support(inner),
            lambda params: (params, inner.init(params)),
            lambda params, opt_state: dense_masks(params),
        )
    options = {
        "sparsity": config.sparsity if sparsity is None else sparsity,
        "distribution": _distribution(config),
        "overrides": dict.fromkeys(config.dense_layers, layers.dense),
        # Bits cost less than bytes to copy through the cond of the mask update, and to keep.
        "packed": True,
    }
    tx, times = _SPARSE[config.method](config, inner, member, options)
    return Method(
        tx,
        lambda params: transforms.init(tx, params),
        lambda params, opt_state: transforms.get_masks(opt_state),
        times,
        dense_gradient=config.method == "rigl",
    )


def build_optimizer(config: ConfigDict, learning_rate: ArrayLike) -> optax.GradientTransformation:
    """Builds the inner optimizer: linear warm-up, then a cosine to 0 at step
    `config.schedule_steps`, or falls to a tenth at `config.decay_steps`.

    Args:
      config: a valid configuration.
      learning_rate: the peak; it may be traced.

    Returns:
      The optax optimizer.
    """
    shape = _rate_shape(config)
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


def _rate_shape(config: ConfigDict) -> optax.Schedule:
    """The learning rate as a share of its peak."""
    if not config.decay_steps:
        return optax.warmup_cosine_decay_schedule(0.0, 1.0, config.warmup_steps, config.schedule_steps)
    falls = optax.piecewise_constant_schedule(1.0, dict.fromkeys(config.decay_steps, 0.1))

    def shape(step: ArrayLike) -> ArrayLike:
        return falls(step) * jnp.minimum(1.0, step / max(config.warmup_steps, 1))

    return shape


def _kernels(params: Params) -> Any:
    """Which leaves weight decay is for where it is not for all."""
    return tree.map_with_path(lambda path, leaf: path.rsplit("/", 1)[-1] == "kernel", params)


_Built = tuple[optax.GradientTransformationExtraArgs, UpdateTimes | None]
_Inner = optax.GradientTransformation


def _gmp(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Built:
    del member
    times = {
        "begin_step": config.begin_step,
        "end_step": config.end_step,
        "update_every": config.update_every,
    }
    tx = recipes.gmp(inner, **times, **options)
    return tx, schedules.every(config.update_every, begin=config.begin_step, end=config.end_step)


def _drop_and_grow(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Built:
    recipe = {"rigl": recipes.rigl, "set": recipes.set_}[config.method]
    tx = recipe(
        inner,
        total_steps=config.end_step,
        stop_fraction=1.0,
        update_every=config.update_every,
        drop_fraction=config.drop_fraction,
        key=member.mask_key,
        **options,
    )
    return tx, recipes.rigl_times(config.end_step, update_every=config.update_every, stop_fraction=1.0)


def _static(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Built:
    del config
    return recipes.static_random(inner, key=member.mask_key, **options), None


def _snip(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Built:
    del config, member
    return recipes.snip(inner, **options), schedules.every(1, begin=0, end=0)


def _one_shot(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Built:
    del member
    at = config.begin_step
    return recipes.one_shot(inner, at_step=at, **options), schedules.every(1, begin=at, end=at)


def _fixed(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Built:
    del config
    return transforms.sparsify(inner, transforms.fixed(member.masks), packed=options["packed"]), None


def _ac_dc(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Built:
    del member
    tx = recipes.ac_dc(
        inner,
        total_steps=config.steps,
        phase_steps=config.update_every,
        warmup_steps=config.begin_step,
        final_steps=config.steps - config.end_step,
        **options,
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
    "fixed": _fixed,
}


def _distribution(config: ConfigDict) -> distributions.Distribution:
    makers = {
        "uniform": distributions.uniform,
        "erdos_renyi": distributions.erdos_renyi,
        "erdos_renyi_kernel": distributions.erdos_renyi_kernel,
        "global": distributions.global_,
    }
    return makers[config.distribution]()
