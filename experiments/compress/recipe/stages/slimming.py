"""Stages that cut a transformer in width or depth, uniform over its layers, and the draw that it is compared with."""

import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import sparsejax
from experiments.compress.recipe.network import Network
from experiments.compress.recipe.search_problem import loss_function
from experiments.compress.recipe.stage import Context, Stage, StageField
from experiments.compress.unit_choices import UNIT_IMPORTANCES, unit_importance
from experiments.config.checks import number, one_of, several, whole
from experiments.errors import ConfigError
from experiments.models.build import build_model
from experiments.models.hidden_states import hidden_states
from experiments.models.saved import model_of_run
from sparsejax.interop.flax import stateful
from sparsejax.params.paths import map_with_path
from sparsejax.tracing import shrink_tree

_KINDS = ("neuron", "head", "residual")


def _width(context: Context, network: Network, options: ConfigDict, place: pathlib.Path) -> Network:
    """Cuts FFN units, heads and residual width by the same share each, as Minitron ranks them, down to a size."""
    del place
    _whole_weights(network)
    fn = network.function()
    importance = unit_importance(options.importance, fn, context.batches, jax.random.key(context.base.seed))
    found = sparsejax.prune_structured(
        fn, network.variables, context.inputs, importance=importance, parameter_ratio=1 - options.share,
        kinds=tuple(options.kinds), normalized=True, round_to=options.round_to,
    )  # fmt: skip
    # Cut out at once: a norm over the width is another function of fewer features than of masked ones.
    variables = shrink_tree(network.variables, found.groups, found.keep)
    return network._replace(variables=variables, stored_bytes=None, place=None)


def _depth(context: Context, network: Network, options: ConfigDict, place: pathlib.Path) -> Network:
    """Leaves blocks out, those that turn the stream least or whose loss is least, and renumbers the others."""
    del place
    _whole_weights(network)
    depth = int(network.sizes["depth"])
    if options.drop >= depth:
        raise ConfigError(f"drop is {options.drop}, but the network has {depth} blocks: leave one at least.")
    rank = block_influences if options.by == "influence" else block_losses
    order = np.argsort(rank(context, network), kind="stable")
    kept = sorted(order[options.drop :].tolist())
    return keep_blocks(network, kept)


def block_influences(context: Context, network: Network) -> np.ndarray:
    """By how much each block turns its stream: ``1 − mean cos(h_in, h_out)`` over positions and batches.

    Args:
      context: gives the batches.
      network: a GPT or an encoder.

    Returns:
      float64 (blocks,); drop the lowest.

    Source: Men et al., "ShortGPT", arXiv 2403.03853, equation 1; Muralidharan et al., "Compact Language Models via
    Pruning and Knowledge Distillation", arXiv 2407.14679, section 2.
    """
    module = model_of_run(network.sizes, str(network.place or ""), network.input_shape, network.classes)
    apply = hidden_states(module)

    @jax.jit
    def cosines(params: Any, inputs: jax.Array) -> jax.Array:
        fresh, _ = apply(params, {}, inputs, False)
        states = jnp.concatenate([_embedded(module, params, inputs)[None], fresh[1]])
        before, after = states[:-1], states[1:]
        norms = jnp.linalg.norm(before, axis=-1) * jnp.linalg.norm(after, axis=-1)
        return jnp.mean(jnp.sum(before * after, -1) / norms, axis=tuple(range(1, before.ndim - 1)))

    found = [np.asarray(cosines(network.variables["params"], batch.inputs)) for batch in context.batches]
    return 1.0 - np.mean(np.asarray(found, np.float64), axis=0)


def block_losses(context: Context, network: Network) -> np.ndarray:
    """By how much the loss rises without each block.

    Args:
      context: gives the batches.
      network: of stacked or unrolled blocks.

    Returns:
      float64 (blocks,); drop the lowest.
    """
    loss = jax.jit(loss_function(network, "labels"))
    mean = lambda v: float(np.mean([loss(v, *batch) for batch in context.batches]))  # noqa: E731
    whole = mean(network.variables)
    return np.array([mean(_without(network, block)) - whole for block in range(int(network.sizes["depth"]))])


def keep_blocks(network: Network, kept: list[int]) -> Network:
    """The network of some of its blocks, renumbered; blocks that a scan runs over lose slices.

    Args:
      network: of stacked or unrolled blocks.
      kept: their numbers, rising.

    Returns:
      The shallower network.
    """
    params = dict(network.variables["params"])
    if "blocks" in params:
        params["blocks"] = jax.tree.map(lambda leaf: leaf[np.asarray(kept)], params["blocks"])
    else:
        blocks = [params.pop(f"block_{number}") for number in range(int(network.sizes["depth"]))]
        params |= {f"block_{new}": blocks[old] for new, old in enumerate(kept)}
    sizes = {**network.sizes, "depth": len(kept)}
    variables = {**network.variables, "params": params}
    return network._replace(sizes=sizes, variables=variables, stored_bytes=None, place=None)


def _redraw(context: Context, network: Network, options: ConfigDict, place: pathlib.Path) -> Network:
    """Weights drawn anew at the network's shape: what it would be trained from without what it has learned."""
    del place
    sizes = {n: tuple(v) if isinstance(v, list) else v for n, v in network.sizes.items()}
    rngs = nnx.Rngs(context.base.seed + options.seed)
    drawn = stateful(build_model(sizes, input_shape=network.input_shape, classes=network.classes, rngs=rngs))
    # Every kernel of a transformer here is drawn from one distribution whatever its width, so a corner of it will do.
    params = jax.tree.map(
        lambda new, old: new[tuple(slice(n) for n in old.shape)], drawn.params, network.variables["params"]
    )
    return network._replace(variables={"params": params, "batch_stats": drawn.batch_stats}, masks=None)


def _without(network: Network, block: int) -> Any:
    """The variables with a block that adds nothing."""

    def zeroed(path: str, leaf: Any) -> Any:
        found = re.search(r"params/block(?:_(\d+)|s)/(?:attention/out|mlp/down)/", path)
        if found is None:
            return leaf
        if found[1] is None:
            return leaf.at[block].set(0)
        return jnp.zeros_like(leaf) if int(found[1]) == block else leaf

    return map_with_path(zeroed, network.variables)


def _embedded(module: Any, params: Any, inputs: jax.Array) -> jax.Array:
    return nnx.merge(nnx.graphdef(module), params).encode(inputs).hidden_states[0]


def _whole_weights(network: Network) -> None:
    if network.sizes.get("name") not in ("gpt", "encoder", "vit"):
        raise ConfigError(f"width and depth are cut of transformers, not of {network.sizes.get('name')!r}.")
    if network.masks is not None:
        raise ConfigError(
            "The network has masks: put 'shrink' before, or prune single weights after the cut."
        )


WIDTH = Stage(
    _width,
    {
        "share": StageField(
            0.5, number("the share of parameters that stays, in (0, 1)", lambda x: 0 < x < 1)
        ),
        "importance": StageField("activation", one_of(UNIT_IMPORTANCES)),
        "kinds": StageField(_KINDS, several("kinds of groups", lambda x: x in _KINDS)),
        "round_to": StageField(1, whole(1)),
    },
)
DEPTH = Stage(
    _depth, {"drop": StageField(1, whole(1)), "by": StageField("influence", one_of(("influence", "loss")))}
)
REDRAW = Stage(_redraw, {"seed": StageField(1000, whole(1))})
