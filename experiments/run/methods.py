"""From a configuration to an optimizer: the sparse method around the plain one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from experiments.run.learned_methods import LEARNED, build_learned
from experiments.run.mask_meter import dense_masks
from experiments.run.optimizers import build_optimizer
from experiments.run.state import Member
from sparsejax import distributions, recipes, schedules
from sparsejax.masks.prunable import dense
from sparsejax.rules.constant import fixed_masks
from sparsejax.schedules import UpdateTimes
from sparsejax.transforms.sparsify import sparsify
from sparsejax.transforms.state import finalize, get_masks, init
from sparsejax.typing import MaskTree, Params


class Method(NamedTuple):
    """An optimizer, sparse or not, and what a run must know of it.

    Attributes:
      tx: the optimizer.
      init: ``params -> (params, opt_state)``, the parameters put on their first masks.
      masks: ``(params, opt_state) -> MaskTree``; all True of a dense run.
      times: the steps at which masks may change; None where they never do.
      dense_gradient: whether mask updates read the gradient of absent weights, which costs FLOPs.
      finalize: ``opt_state -> (params, masks)`` of a method with latents, scores or gates: what is evaluated
        and saved, without noise and on the hard masks. None where the parameters are that already.
    """

    tx: optax.GradientTransformationExtraArgs
    init: Callable[[Params], tuple[Params, Any]]
    masks: Callable[[Params, Any], MaskTree]
    times: UpdateTimes | None = None
    dense_gradient: bool = False
    finalize: Callable[[Any], tuple[Params, MaskTree]] | None = None


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
      >>> from experiments.config.fields import default_config
      >>> from experiments.run.state import make_member
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
        "overrides": dict.fromkeys(config.dense_layers, dense),
    }
    if config.method in LEARNED:
        return _learned(config, build_learned(config, inner, member, options))
    # Bits cost less than bytes to copy through the cond of the mask update, and to keep.
    tx, times = _SPARSE[config.method](config, inner, member, options | {"packed": True})
    return Method(
        tx,
        lambda params: init(tx, params),
        lambda params, opt_state: get_masks(opt_state),
        times,
        dense_gradient=config.method == "rigl",
    )


def _learned(config: ConfigDict, tx: optax.GradientTransformationExtraArgs) -> Method:
    """Its masks may change at any step; they are looked at now and then, and at the end."""
    return Method(
        tx,
        lambda params: init(tx, params),
        lambda params, opt_state: get_masks(opt_state),
        schedules.update_every(config.update_every, begin=0, end=config.steps - 1),
        dense_gradient=True,
        finalize=finalize,
    )


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
    return tx, schedules.update_every(config.update_every, begin=config.begin_step, end=config.end_step)


def _drop_and_grow(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Built:
    recipe = {"rigl": recipes.rigl, "set": recipes.set_}[config.method]
    tx = recipe(
        inner,
        total_steps=config.end_step,
        stop_fraction=1.0,
        update_every=config.update_every,
        drop_fraction=config.drop_fraction,
        second_moment=config.second_moment,
        key=member.mask_key,
        **options,
    )
    return tx, tx.times


def _static(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Built:
    del config
    return recipes.static_random(inner, key=member.mask_key, **options), None


def _snip(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Built:
    del config, member
    return recipes.snip(inner, **options), schedules.update_every(1, begin=0, end=0)


def _one_shot(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Built:
    del member
    at = config.begin_step
    return recipes.one_shot(inner, at_step=at, **options), schedules.update_every(1, begin=at, end=at)


def _fixed(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Built:
    del config
    return sparsify(inner, fixed_masks(member.masks), packed=options["packed"]), None


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
    return tx, schedules.update_every(config.update_every, begin=config.begin_step, end=config.end_step)


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
        "global": distributions.global_threshold,
    }
    return makers[config.distribution]()
