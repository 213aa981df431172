"""Stages that prune a trained network: single weights from calibration batches, or whole units to a budget."""

import pathlib
import warnings
from typing import Any

import jax
from ml_collections import ConfigDict

import sparsejax
from experiments.compress.recipe.network import Network
from experiments.compress.recipe.stage import Context, Stage, StageField
from experiments.compress.unit_choices import UNIT_IMPORTANCES, unit_importance, whole_masks
from experiments.config.checks import number, one_of, several, whole
from sparsejax import post_training
from sparsejax.structured import KINDS

METHODS = {
    "magnitude": post_training.magnitude,
    "wanda": post_training.wanda,
    "sparsegpt": post_training.sparsegpt,
    "alps": post_training.alps,
}
_BUDGETS = ("channel_ratio", "global_channel_ratio", "parameter_ratio", "flops_ratio", "latency_ratio")
_BELOW_ONE = number("the share that goes, in [0, 1)", lambda x: 0 <= x < 1)


def _prune(context: Context, network: Network, options: ConfigDict, place: pathlib.Path) -> Network:
    """Prunes weights of every layer, one layer after the other."""
    del place
    stats, apply = network.variables["batch_stats"], network.apply()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", post_training.CalibrationWarning
        )  # few rows: the held-out error tells
        found = METHODS[options.method](
            lambda params, inputs: apply(params, stats, inputs, False)[0],
            network.variables["params"],
            [batch.inputs for batch in context.batches],
            held_out=[batch.inputs for batch in context.held_out],
            sparsity=options.sparsity,
            masks=network.masks,
        )
    variables = {"params": found.params, "batch_stats": stats}
    masks = jax.tree.map(jax.numpy.asarray, found.masks)
    return context.refresh(network._replace(variables=variables, masks=masks, stored_bytes=None))


def _structured(context: Context, network: Network, options: ConfigDict, place: pathlib.Path) -> Network:
    """Masks channels, neurons and heads so that a budget is met; `shrink` cuts them out."""
    del place
    fn = network.function()
    importance = unit_importance(options.importance, fn, context.batches, jax.random.key(context.base.seed))
    found = sparsejax.prune_structured(
        fn, network.variables, context.inputs, importance=importance, across=options.across,
        kinds=tuple(options.kinds), round_to=options.round_to, **{options.budget: options.ratio},
    )  # fmt: skip
    return context.refresh(with_units(network, found.groups, found.keep))


def with_units(network: Network, groups: Any, keep: Any) -> Network:
    """The network with masks that keep some units, inside those that it has.

    Args:
      network: any.
      groups: of its function, over ``{"params": …, "batch_stats": …}``.
      keep: group -> bool.

    Returns:
      The masked network.
    """
    masks = whole_masks(network.variables, groups, keep)
    variables = sparsejax.apply_masks(network.variables, masks)
    mine = masks["params"]
    if network.masks is not None:
        mine = jax.tree.map(lambda new, old: jax.numpy.logical_and(new, old), mine, network.masks)
    return network._replace(
        variables=variables, masks=jax.tree.map(jax.numpy.asarray, mine), stored_bytes=None
    )


PRUNE = Stage(
    _prune,
    {"method": StageField("sparsegpt", one_of(METHODS)), "sparsity": StageField(0.5, _BELOW_ONE)},
)
STRUCTURED = Stage(
    _structured,
    {
        "importance": StageField("l2", one_of(UNIT_IMPORTANCES)),
        "budget": StageField("flops_ratio", one_of(_BUDGETS)),
        "ratio": StageField(0.5, _BELOW_ONE),
        "across": StageField("uniform", one_of(("uniform", "global"))),
        "kinds": StageField(
            ("channel", "neuron", "head", "residual"), several("kinds of groups", lambda x: x in KINDS)
        ),
        "round_to": StageField(1, whole(1)),
    },
)
