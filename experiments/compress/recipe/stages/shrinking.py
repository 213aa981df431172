"""The stage that cuts masked units out, so that what is left is an ordinary smaller network."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import sparsejax
from experiments.compress.recipe.network import Network
from experiments.compress.recipe.stage import Context, Stage
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import MaskTree, Params


def _shrink(context: Context, network: Network, options: ConfigDict, place: pathlib.Path) -> Network:
    """Cuts out what the masks leave nothing of; one unit of each group stays."""
    del options, place
    if network.masks is None:
        return network
    fn, variables = network.function(), network.variables
    groups = sparsejax.prunable_groups(fn, variables, context.inputs)
    groups = {name: group for name, group in groups.items() if _in_params(group) and group.kind != "head_dim"}
    full = {"params": network.masks, "batch_stats": jax.tree.map(lambda _: True, variables["batch_stats"])}
    keep = {
        name: _one_at_least(kept) for name, kept in sparsejax.tracing.keep_from_masks(full, groups).items()
    }
    cut = lambda tree: sparsejax.tracing.shrink_tree(tree, groups, keep)  # noqa: E731
    whole = jax.tree.map(lambda mask, leaf: jnp.broadcast_to(mask, leaf.shape), full, variables)
    masks = cut(whole)["params"]
    return network._replace(
        variables=cut(variables),
        masks=None if _all_kept(masks) else _flat(masks),
        stored_bytes=None,
        place=None,
    )


def _in_params(group: sparsejax.tracing.Group) -> bool:
    return any(member.path.startswith("params/") for member in group.members)


def _one_at_least(kept: np.ndarray) -> np.ndarray:
    """A group that is gone whole keeps one unit, of zeros; layers of a stack keep as many each."""
    rows = np.atleast_2d(kept).copy()
    most = max(1, int(rows.sum(-1).max()))
    for row in rows:
        row[np.flatnonzero(~row)[: most - int(row.sum())]] = True
    return rows.reshape(kept.shape)


def _all_kept(masks: MaskTree) -> bool:
    return all(bool(np.all(leaf)) for leaf in flatten_with_paths(masks)[1])


def _flat(masks: MaskTree) -> Params:
    """Leaves without a pruned weight as 0-d True, as masks have them."""
    return jax.tree.map(lambda leaf: jnp.asarray(True) if bool(jnp.all(leaf)) else leaf, masks)


SHRINK = Stage(_shrink, {})
