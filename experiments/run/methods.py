"""From a configuration to an optimizer: the sparse method around the plain one. A new method is a line in `METHODS`."""

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from experiments.run import builders
from experiments.run.mask_meter import dense_masks
from experiments.run.named import load_named
from experiments.run.optimizers import build_optimizer
from experiments.run.state import Member, make_member
from sparsejax import distributions, schedules
from sparsejax.errors import ScheduleError
from sparsejax.kernels import decompress, first_capacities, start, train_compressed, weight_masks
from sparsejax.masks.prunable import dense
from sparsejax.params.default_filter import default_prunable
from sparsejax.schedules import UpdateTimes
from sparsejax.transforms import SparseTransformation
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
      expand: ``params -> (params, masks)`` of a method in the compressed form: the dense parameters and masks that
        are evaluated and saved. None where the parameters are dense.
      finalize: ``opt_state -> (params, masks)`` of a method with latents, scores or gates: what is evaluated
        and saved, without noise and on the hard masks. None where the parameters are that already.
    """

    tx: optax.GradientTransformationExtraArgs
    init: Callable[[Params], tuple[Params, Any]]
    masks: Callable[[Params, Any], MaskTree]
    times: UpdateTimes | None = None
    dense_gradient: bool = False
    finalize: Callable[[Any], tuple[Params, MaskTree]] | None = None
    expand: Callable[[Params], tuple[Params, MaskTree]] | None = None


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
    options = _options(config, entry, sparsity)
    try:
        if config.model.get("sparse_compute") == "blocks":
            return _compressed(config, entry, inner, member, options)
        tx = entry.build(config, inner, member, options)
    except ScheduleError as error:  # speaks of the recipe's arguments; these are the fields they come from
        raise ScheduleError(f"{error} The times come from {_times_of(config, entry)}.") from error
    return Method(
        tx,
        lambda params: init(tx, params),
        lambda params, opt_state: get_masks(opt_state),
        _looked_at(config) if entry.learned else tx.times,
        tx.reads_gradient,
        finalize if entry.learned else None,
    )


def _times_of(config: ConfigDict, entry: "Entry") -> str:
    names = ("steps", *(name for name in ("begin_step", "end_step", "update_every") if name in entry.reads))
    return ", ".join(f"config.{name}={config[name]}" for name in names)


def _compressed(
    config: ConfigDict,
    entry: "Entry",
    inner: optax.GradientTransformation,
    member: Member,
    options: dict[str, Any],
) -> Method:
    """A method of masks over blocks, whose parameters hold live blocks only."""
    block = (config.block, config.block)
    tx, counted = (
        train_compressed(
            inner,
            lambda optimizer, one=one: entry.build(config, optimizer, one, options),
            block=block,
            prunable=_kernels_but(config.dense_layers),
        )
        for one in (member, _any_member())
    )
    return Method(
        tx,
        # The number of blocks is a shape: it is counted on the host, with a key that is no tracer.
        lambda params: start(tx, params, first_capacities(counted, params)),
        lambda params, opt_state: get_masks(opt_state),
        tx.times,
        tx.reads_gradient,
        expand=lambda params: (decompress(params), weight_masks(params)),
    )


def _any_member() -> Member:
    with jax.ensure_compile_time_eval():
        return make_member(0, 1.0)


def _kernels_but(dense_layers: Sequence[str]) -> Callable[[str, Any], bool]:
    """The library's filter, less the layers that stay dense."""

    def prunable(path: str, leaf: Any) -> bool:
        named = any(fnmatch.fnmatchcase(path, pattern) for pattern in dense_layers)
        return default_prunable(path, leaf) and not named

    return prunable


def _looked_at(config: ConfigDict) -> UpdateTimes:
    """Learned masks may change at any step; they are looked at now and then, and at the end."""
    return schedules.update_every(config.update_every, begin=0, end=config.steps - 1)


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
    if "min_kept" in entry.reads:
        options["min_kept"] = config.min_kept
    for name in ("score", "pattern"):
        if name in entry.reads and config[name]:
            options[name] = load_named(name, config[name])
    return options


class Entry(NamedTuple):
    """A method that `config.method` may name.

    Attributes:
      says: what it is, in a few words.
      build: ``(config, inner optimizer, member, options) -> optimizer``.
      reads: the fields of masks, gates and scores that it reads; it ignores the others.
      learned: whether it keeps latents, scores or gates, of which `finalize` makes the weights.
      blocks: whether it trains in the compressed form too, with ``model.sparse_compute="blocks"``.
    """

    says: str
    build: Callable[[ConfigDict, optax.GradientTransformation, Member, dict[str, Any]], SparseTransformation]
    reads: tuple[str, ...] = ()
    learned: bool = False
    blocks: bool = False


_MASKS = ("sparsity", "distribution", "dense_layers", "pattern", "min_kept")
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
    "dense": Entry("no pruning", builders.dense),
    "gmp": Entry("gradual magnitude pruning", builders.gmp, (*_MASKS, "score", *_RAMP), blocks=True),
    "rigl": Entry(
        "drops small weights, grows by the gradient", builders.drop_and_grow, (*_MASKS, *_GROWTH), blocks=True
    ),
    "set": Entry(
        "drops small weights, grows at random", builders.drop_and_grow, (*_MASKS, *_GROWTH), blocks=True
    ),
    "static": Entry("random masks that never change", builders.static, _MASKS, blocks=True),
    "snip": Entry("pruned at the first step, by sensitivity", builders.snip, _MASKS),
    "one_shot": Entry(
        "pruned once, at begin_step",
        builders.one_shot, (*_MASKS, "score", "begin_step"),
    ),
    "ac_dc": Entry("dense and sparse phases in turn", builders.ac_dc, (*_MASKS, "score", *_RAMP)),
    "fixed": Entry("the masks of an earlier run", builders.fixed, ("init_from",)),
    "rule": Entry(
        "a mask rule of yours", builders.rule, ("rule", "second_moment")
    ),
    "straight_through": Entry(
        "trains all weights, uses the largest", builders.straight_through, (*_MASKS, *_RAMP), learned=True
    ),
    "movement": Entry(
        "learned scores, top-k", builders.movement, (*_MASKS, *_RAMP, "score_learning_rate"), learned=True
    ),
    "soft_movement": Entry(
        "learned scores, a threshold and a penalty", builders.soft_movement, _SOFT, learned=True
    ),
    "l0": Entry(
        "hard-concrete gates",
        builders.l0,
        ("sparsity", "penalty_weight", "dense_layers", "gates", "begin_step", "end_step", *_GATES),
        learned=True,
    ),
    "cofi": Entry(
        "gates on a transformer's layers, heads and units",
        builders.cofi, ("sparsity", "begin_step", "end_step", *_GATES), learned=True,
    ),
}  # fmt: skip
