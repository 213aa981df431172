"""Weights that make up for removed units: the layer that reads them, solved again by least squares at each level."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.compress.recipe.network import Network
from experiments.compress.unit_choices import whole_masks
from sparsejax import post_training
from sparsejax.params.paths import flatten_with_paths, map_with_path
from sparsejax.search import Candidates
from sparsejax.structured.choose.removal_order import keep_best
from sparsejax.tracing import Group, linear_ops

#: path of a parameter -> the number of the site that it reads, and its weights at each of that site's levels.
Readers = dict[str, tuple[int, jax.Array]]


def solve_readers(
    network: Network,
    batches: Sequence[Any],
    groups: Mapping[str, Group],
    importances: Mapping[str, np.ndarray],
    kept: Mapping[str, Sequence[int]],
) -> Readers:
    """Solves each layer that reads a group for the units that each level keeps.

    ``min_W' ‖X W − X_kept W'‖²``, X being the layer's inputs in the network as it was. So a level's weights do not
    depend on what is chosen elsewhere, and are solved once, before the search.

    Args:
      network: trained.
      batches: inputs to calibrate on.
      groups: over ``{"params": …, "batch_stats": …}``.
      importances: of the units; the highest stay.
      kept: group -> units that stay at each level, in the order of the sites.

    Returns:
      The readers; layers that read several of the groups are left as they are.

    Source: He et al., "AMC", arXiv 1802.03494, section 3.2, and its code: inputs of the original network, products
    and 1×1 convolutions only. Here any convolution that post-training pruning can solve.
    """
    stats, apply, params = network.variables["batch_stats"], network.apply(), network.variables["params"]
    fn = lambda p, inputs: apply(p, stats, inputs, False)[0]  # noqa: E731
    site_of = _sites_of(groups, list(kept), set(linear_ops(fn, params, batches[0])))
    rows: dict[str, list[jax.Array]] = {path: [] for path in site_of}
    for level in range(max(map(len, kept.values()))):
        counts = {name: row[min(level, len(row) - 1)] for name, row in kept.items()}
        solved = _solved(network, fn, batches, groups, keep_best(importances, counts), site_of)
        for path, leaf in solved.items():
            rows[path].append(leaf)
    return {path: (site, jnp.stack(rows[path])) for path, site in site_of.items()}


def with_readers(candidates: Candidates, readers: Readers) -> Candidates:
    """The candidates whose readers have the weights of their site's level.

    Args:
      candidates: masks over ``{"params": …, "batch_stats": …}``.
      readers: from `solve_readers`.

    Returns:
      The candidates.
    """
    tables = {
        "masks": candidates.tables,
        "readers": {path: stacked for path, (_, stacked) in readers.items()},
    }
    sites = {path: site for path, (site, _) in readers.items()}

    def build(variables: Any, tables: Any, levels: jax.Array) -> Any:
        def chosen(path: str, leaf: Any) -> Any:
            return tables["readers"][path][levels[sites[path]]] if path in sites else leaf

        replaced = {**variables, "params": map_with_path(chosen, variables["params"])}
        return candidates.build(replaced, tables["masks"], levels)

    return Candidates(candidates.params, tables, build)


def _sites_of(groups: Mapping[str, Group], names: Sequence[str], products: set[str]) -> dict[str, int]:
    """Parameter -> the one group whose units it reads."""
    found: dict[str, set[int]] = {}
    for site, name in enumerate(names):
        for member in groups[name].members:
            path = member.path.removeprefix("params/")
            if member.role == "input" and path in products:
                found.setdefault(path, set()).add(site)
    return {path: sites.pop() for path, sites in found.items() if len(sites) == 1}


def _solved(
    network: Network,
    fn: Any,
    batches: Sequence[Any],
    groups: Mapping[str, Group],
    keep: Any,
    site_of: Mapping[str, int],
) -> dict[str, jax.Array]:
    """The readers' weights where each group keeps these units."""
    inputs_only = {
        name: group._replace(members=tuple(m for m in group.members if m.role == "input"))
        for name, group in groups.items()
        if name in keep
    }
    masks = whole_masks(network.variables, inputs_only, keep)["params"]

    def solve(weights: Any, gram: Any, *, mask: Any, damping: float, **rest: Any) -> post_training.Solution:
        del rest
        whole = jnp.ones(weights.shape, bool) if mask is None else mask
        return post_training.resolve_weights(weights, gram, whole, damping=damping)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", post_training.CalibrationWarning)  # the search's own loss tells
        found = post_training.prune_model(
            fn, network.variables["params"], batches, solve=solve, sparsity=0.0, masks=masks, sequential=False,
            held_out=batches[:1], damping=1e-3, prunable=lambda path, leaf: path in site_of,
        )  # fmt: skip
    leaves = dict(zip(*flatten_with_paths(found.params)[:2], strict=True))
    return {path: leaves[path] for path in site_of}
