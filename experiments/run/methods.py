"""From a configuration to an optimizer: the sparse method around the plain one. A new method is a line in `METHODS`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from experiments.run.gates import COARSE, GATES, gate_groups
from experiments.run.mask_meter import dense_masks
from experiments.run.named import load_named
from experiments.run.optimizers import build_optimizer, rate_shape
from experiments.run.state import Member
from sparsejax import distributions, recipes, schedules
from sparsejax.masks.prunable import dense
from sparsejax.rules.constant import fixed_masks
from sparsejax.schedules import UpdateTimes
from sparsejax.transforms.sparsify import sparsify
from sparsejax.transforms.state import finalize, get_masks, init
from sparsejax.typing import MaskTree, Params

#: What `config.distribution` names, beside a function of the user's.
DISTRIBUTIONS: dict[str, Callable[[], distributions.Distribution]] = {
    "uniform": distributions.uniform,
    "erdos_renyi": distributions.erdos_renyi,
    "erdos_renyi_kernel": distributions.erdos_renyi_kernel,
    "global": distributions.global_threshold,
}


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
      ConfigError: a function that the configuration names and that cannot be had.

    Example:
      >>> from experiments.config.fields import default_config
      >>> from experiments.run.state import make_member
      >>> config = default_config()
      >>> config.method, config.sparsity = "static", 0.9
      >>> build_method(config, make_member(0, 0.1)).times is None
      True
    """
    inner, entry = build_optimizer(config, member.learning_rate), METHODS[config.method]
    if config.method == "dense":
        return Method(
            optax.with_extra_args_support(inner),
            lambda params: (params, inner.init(params)),
            lambda params, opt_state: dense_masks(params),
        )
    tx = entry.build(config, inner, member, _options(config, entry, sparsity))
    return Method(
        tx,
        lambda params: init(tx, params),
        lambda params, opt_state: get_masks(opt_state),
        entry.times(config),
        entry.dense_gradient,
        finalize if entry.learned else None,
    )


def _options(config: ConfigDict, entry: "Entry", sparsity: ArrayLike | None) -> dict[str, Any]:
    """The words that the recipes share, of which each gets those that it reads."""
    options: dict[str, Any] = {}
    if "sparsity" in entry.reads:
        options["sparsity"] = config.sparsity if sparsity is None else sparsity
    if "distribution" in entry.reads:
        own = DISTRIBUTIONS.get(config.distribution)
        options["distribution"] = own() if own else load_named("distribution", config.distribution)
    if "dense_layers" in entry.reads:
        options["overrides"] = dict.fromkeys(config.dense_layers, dense)
    for name in ("score", "pattern"):
        if name in entry.reads and config[name]:
            options[name] = load_named(name, config[name])
    if not entry.learned:
        # Bits cost less than bytes to copy through the cond of the mask update, and to keep.
        options["packed"] = True
    return options


_Transformation = optax.GradientTransformationExtraArgs
_Inner = optax.GradientTransformation
_Options = dict[str, Any]


def _dense(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> _Transformation:
    del config, member, options
    return optax.with_extra_args_support(inner)


def _gmp(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> _Transformation:
    del member
    return recipes.gmp(inner, **_ramp(config), **options)


def _drop_and_grow(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> _Transformation:
    recipe = {"rigl": recipes.rigl, "set": recipes.set_}[config.method]
    return recipe(
        inner,
        total_steps=config.end_step,
        stop_fraction=1.0,
        update_every=config.update_every,
        drop_fraction=config.drop_fraction,
        second_moment=config.second_moment,
        key=member.mask_key,
        **options,
    )


def _static(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> _Transformation:
    del config
    return recipes.static_random(inner, key=member.mask_key, **options)


def _snip(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> _Transformation:
    del config, member
    return recipes.snip(inner, **options)


def _one_shot(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> _Transformation:
    del member
    return recipes.one_shot(inner, at_step=config.begin_step, **options)


def _fixed(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> _Transformation:
    del config
    return sparsify(inner, fixed_masks(member.masks), **options)


def _rule(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> _Transformation:
    rule = load_named("rule", config.rule)
    return sparsify(inner, rule, key=member.mask_key, second_moment=config.second_moment, **options)


def _ac_dc(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> _Transformation:
    del member
    return recipes.ac_dc(
        inner,
        total_steps=config.steps,
        phase_steps=config.update_every,
        warmup_steps=config.begin_step,
        final_steps=config.steps - config.end_step,
        **options,
    )


def _straight_through(
    config: ConfigDict, inner: _Inner, member: Member, options: _Options
) -> _Transformation:
    del member
    return recipes.straight_through(inner, **_ramp(config), **options)


def _movement(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> _Transformation:
    del member
    return recipes.movement(inner, score_optimizer=_score_optimizer(config), **_ramp(config), **options)


def _soft_movement(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> _Transformation:
    return recipes.soft_movement(
        inner,
        begin_step=config.begin_step,
        end_step=config.end_step,
        threshold=config.threshold,
        penalty_weight=member.penalty_weight,
        score_optimizer=_score_optimizer(config),
        **options,
    )


def _l0(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> _Transformation:
    penalised = bool(config.penalty_weight or config.penalty_weights)
    target = schedules.linear(member.sparsity, begin=config.begin_step, end=config.end_step)
    return recipes.l0(
        inner,
        key=member.mask_key,
        penalty_weight=member.penalty_weight if penalised else None,
        gates=GATES[config.gates](config),
        gate_optimizer=optax.adam(config.gate_learning_rate),
        drop_rate=config.drop_rate,
        **options | {"sparsity": None if penalised else target},
    )


def _cofi(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> _Transformation:
    return recipes.cofi(
        inner,
        groups=gate_groups(config),
        begin_step=config.begin_step,
        warmup_steps=config.end_step - config.begin_step,
        key=member.mask_key,
        gate_optimizer=optax.adam(config.gate_learning_rate),
        drop_rate=COARSE | {"*": config.drop_rate},
        **options | {"sparsity": member.sparsity},
    )


def _ramp(config: ConfigDict) -> dict[str, int]:
    return {name: config[name] for name in ("begin_step", "end_step", "update_every")}


def _score_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Scores learn on the weights' schedule, at a rate of their own, as in the code of movement pruning."""
    shape = rate_shape(config)
    return optax.adam(lambda step: config.score_learning_rate * shape(step + config.skip_steps))


# When masks may change, from the same fields as the recipe: goes when a transformation tells it itself.
_Times = Callable[[ConfigDict], UpdateTimes | None]


def _never(config: ConfigDict) -> None:
    del config


def _at(step: Callable[[ConfigDict], int]) -> _Times:
    return lambda config: schedules.update_every(1, begin=step(config), end=step(config))


def _between(config: ConfigDict) -> UpdateTimes:
    return schedules.update_every(config.update_every, begin=config.begin_step, end=config.end_step)


def _throughout(config: ConfigDict) -> UpdateTimes:
    """Learned masks may change at any step; they are looked at now and then, and at the end."""
    return schedules.update_every(config.update_every, begin=0, end=config.steps - 1)


def _grown(config: ConfigDict) -> UpdateTimes:
    return recipes.rigl_times(config.end_step, update_every=config.update_every, stop_fraction=1.0)


def _own_times(config: ConfigDict) -> UpdateTimes | None:
    return load_named("rule", config.rule).times


class Entry(NamedTuple):
    """A method that `config.method` may name.

    Attributes:
      says: what it is, in a few words.
      build: ``(config, inner optimizer, member, options) -> optimizer``.
      reads: the fields of masks, gates and scores that it reads; it ignores the others.
      times: ``config -> `` when masks may change; None where never.
      dense_gradient: whether mask updates read the gradient of absent weights.
      learned: whether it keeps latents, scores or gates, of which `finalize` makes the weights.
    """

    says: str
    build: Callable[[ConfigDict, _Inner, Member, _Options], _Transformation]
    reads: tuple[str, ...] = ()
    times: _Times = _never
    dense_gradient: bool = False
    learned: bool = False


_MASKS = ("sparsity", "distribution", "dense_layers", "pattern")
_RAMP = ("begin_step", "end_step", "update_every")
_GROWTH = ("end_step", "update_every", "drop_fraction", "second_moment")
_GATES = ("gate_learning_rate", "drop_rate")
_SOFT = (
    "begin_step",
    "end_step",
    "threshold",
    "penalty_weight",
    "score_learning_rate",
    "dense_layers",
    "pattern",
)

#: The methods by name; what is checked, said and built of them comes from here.
METHODS: dict[str, Entry] = {
    "dense": Entry("no pruning", _dense),
    "gmp": Entry("gradual magnitude pruning", _gmp, (*_MASKS, "score", *_RAMP), _between),
    "rigl": Entry("drops small weights, grows by the gradient", _drop_and_grow, (*_MASKS, *_GROWTH), _grown, True),
    "set": Entry("drops small weights, grows at random", _drop_and_grow, (*_MASKS, *_GROWTH), _grown),
    "static": Entry("random masks that never change", _static, _MASKS),
    "snip": Entry("pruned at the first step, by sensitivity", _snip, (*_MASKS, "score"), _at(lambda config: 0)),
    "one_shot": Entry(
        "pruned once, at begin_step", _one_shot, (*_MASKS, "score", "begin_step"), _at(lambda config: config.begin_step)
    ),
    "ac_dc": Entry("dense and sparse phases in turn", _ac_dc, (*_MASKS, "score", *_RAMP), _between),
    "fixed": Entry("the masks of an earlier run", _fixed, ("init_from",)),
    # A rule may do anything with the gradient; its FLOPs are counted as if it read all of it.
    "rule": Entry(
        "a mask rule of yours", _rule, ("rule", "second_moment"), _own_times, True
    ),
    "straight_through": Entry(
        "trains all weights, uses the largest", _straight_through, (*_MASKS, *_RAMP), _throughout, True, True
    ),
    "movement": Entry(
        "learned scores, top-k", _movement, (*_MASKS, *_RAMP, "score_learning_rate"), _throughout, True, True
    ),
    "soft_movement": Entry("learned scores, a threshold and a penalty", _soft_movement, _SOFT, _throughout, True, True),
    "l0": Entry(
        "hard-concrete gates",
        _l0,
        ("sparsity", "penalty_weight", "dense_layers", "gates", "begin_step", "end_step", *_GATES),
        _throughout, True, True,
    ),
    "cofi": Entry(
        "gates on a transformer's layers, heads and units",
        _cofi, ("sparsity", "begin_step", "end_step", *_GATES), _throughout, True, True,
    ),
}  # fmt: skip
