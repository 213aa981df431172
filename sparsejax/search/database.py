"""A database of compressed layers: each layer at each sparsity, as packed masks and changes of the kept weights."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import SearchError
from sparsejax.masks.prunable import Override
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_kind
from sparsejax.params.kept_count import check_sparsity
from sparsejax.params.paths import flatten_with_paths, literal, map_with_path
from sparsejax.search.candidates import Candidates
from sparsejax.search.problem import Site
from sparsejax.tracing.tables import count
from sparsejax.typing import Array, Params


class LayerLevels(NamedTuple):
    """One layer at each of its levels.

    Attributes:
      sparsities: fraction of zeros at each level, rising.
      masks: bits of the flattened masks, uint8 (levels, ⌈n/8⌉), True = kept.
      deltas: pruned minus dense weights, 0 off the mask, (levels, …); None where kept weights are the dense ones.
      shape: of the layer's parameter.
    """

    sparsities: tuple[float, ...]
    masks: Array
    deltas: Array | None
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Weights of the layer."""
        return int(np.prod(self.shape))

    def kept(self, level: int) -> int:
        """Weights that a level keeps."""
        return int(np.unpackbits(np.asarray(self.masks[level]), count=self.size).sum())


class LayerDatabase(NamedTuple):
    """Layers at levels.

    Attributes:
      params: the dense parameters.
      layers: path -> its levels.
      seconds: that building it took.
    """

    params: Params
    layers: dict[str, LayerLevels]
    seconds: float

    @property
    def bytes(self) -> int:
        """Of masks and deltas."""
        return sum(
            layer.masks.nbytes + (0 if layer.deltas is None else layer.deltas.nbytes)
            for layer in self.layers.values()
        )

    def sites(self) -> dict[str, Site]:
        """A site for each layer."""
        return {
            path: Site(
                layer.sparsities, "layer", {"weights": float(layer.size), "ndim": float(len(layer.shape))}
            )
            for path, layer in self.layers.items()
        }

    def kept_weights(self) -> list[list[int]]:
        """For each layer how many weights each level keeps: tables for `additive_cost`."""
        return [[layer.kept(k) for k in range(len(layer.sparsities))] for layer in self.layers.values()]

    def candidates(self) -> Candidates:
        """The layers' levels as parameters of a traced choice."""
        tables = {path: (layer.masks, layer.deltas) for path, layer in self.layers.items()}
        order = {path: number for number, path in enumerate(self.layers)}
        sizes = {path: (layer.size, layer.shape) for path, layer in self.layers.items()}

        def build(params: Params, tables: Any, levels: Array) -> Params:
            def leaf_at(path: str, leaf: Any) -> Any:
                if path not in order:
                    return leaf
                masks, deltas = tables[path]
                level, (size, shape) = levels[order[path]], sizes[path]
                mask = jnp.unpackbits(masks[level], count=size).reshape(shape).astype(bool)
                return jnp.where(
                    mask, leaf if deltas is None else leaf + deltas[level], jnp.zeros((), leaf.dtype)
                )

            return map_with_path(leaf_at, params)

        return Candidates(self.params, tables, build)

    def __str__(self) -> str:
        levels = sum(len(layer.sparsities) for layer in self.layers.values())
        dense = count(_bytes(self.params))
        return (
            f"{len(self.layers)} layers, {levels} levels: {count(self.bytes)} bytes beside the dense parameters' "
            f"{dense}, built in {self.seconds:.1f} s"
        )


#: ``prune(overrides) -> result`` with `params` and `masks`, of which overrides give each layer's sparsity.
PruneLayers = Callable[[Mapping[str, Override]], Any]


def build_database(
    params: Params, sparsities: Mapping[str, Sequence[float]], prune: PruneLayers
) -> LayerDatabase:
    """Prunes every layer at every level, each level of all layers by one call.

    Args:
      params: the dense parameters.
      sparsities: path -> fraction of zeros at each level, rising, from 0; as many levels for each layer or fewer.
      prune: a post-training method, such as ``lambda overrides: sparsegpt(fn, params, batches, sparsity=0.5,
        overrides=overrides, sequential=False)``; layers are to be calibrated on the dense model, so that a layer does
        not depend on what was chosen before it.

    Returns:
      The database; print it for its size and the time it took.

    Raises:
      SearchError: no layer, a layer that is not there, or sparsities that do not rise within [0, 1].
    """
    began = time.perf_counter()
    dense = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    if not sparsities or (unknown := sorted(set(sparsities) - set(dense))):
        raise SearchError(f"There is no layer {unknown[0]!r}." if sparsities else "No layer is named.")
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {path: [] for path in sparsities}
    for level in range(max(map(len, sparsities.values()))):
        now = {path: float(row[min(level, len(row) - 1)]) for path, row in sparsities.items()}
        pruned = prune({literal(path): Override(sparsity=share) for path, share in now.items()})
        weights, masks = (
            dict(zip(*flatten_with_paths(tree)[:2], strict=True)) for tree in (pruned.params, pruned.masks)
        )
        for path, row in sparsities.items():
            if level < len(row):
                mask = np.broadcast_to(np.asarray(masks[path]), np.shape(dense[path]))
                delta = np.where(mask, np.asarray(weights[path]) - np.asarray(dense[path]), 0)
                found[path].append((mask, delta))
    layers = {path: _levels(path, sparsities[path], rows) for path, rows in found.items()}
    return LayerDatabase(params, layers, time.perf_counter() - began)


def equal_steps(
    sizes: Mapping[str, int], sparsity: float, step: int, most: int = 8
) -> dict[str, tuple[float, ...]]:
    """Levels of an equal number of weights in every layer, so that one down here and one up there keep the total.

    ``s̄ + l·Δ/n`` for l from −min(⌊s̄·n/Δ⌋, most) to min(⌊(1 − s̄)·n/Δ⌋, most)

    Args:
      sizes: path -> weights n.
      sparsity: s̄, at which the levels are centred.
      step: Δ, weights of a level.
      most: levels on each side.

    Returns:
      Path -> sparsities, rising.

    Raises:
      SearchError: a step that leaves every layer with one level, or numbers below 1.
      SparsityError: outside [0, 1].

    Example:
      >>> equal_steps({"a": 100, "b": 50}, 0.5, 10, most=2)
      {'a': (0.3, 0.4, 0.5, 0.6, 0.7), 'b': (0.1, 0.3, 0.5, 0.7, 0.9)}

    Source: Sieberling et al., "EvoPress", arXiv 2410.14649, and its code (there Δ is a million weights).
    """
    require_kind(sizes, Mapping, "sizes", "{'a': 100}", SearchError)
    check_sparsity(sparsity, "sparsity")
    require_numbers(SearchError, least=1, whole=True, step=step, **{"most levels": most})
    found = {}
    for path, size in sizes.items():
        kept = round((1 - sparsity) * size)
        down, up = min((size - kept) // step, most), min(kept // step, most)
        found[path] = tuple(round(1 - (kept - level * step) / size, 12) for level in range(-down, up + 1))
    if not found or max(map(len, found.values())) < 2:
        raise SearchError(f"A step of {step} weights leaves every layer with one level: give a smaller one.")
    return found


def _levels(
    path: str, sparsities: Sequence[float], rows: Sequence[tuple[np.ndarray, np.ndarray]]
) -> LayerLevels:
    shares = tuple(map(float, sparsities))
    if any(a >= b for a, b in itertools.pairwise(shares)) or not 0 <= shares[0] <= shares[-1] <= 1:
        raise SearchError(f"The sparsities of {path!r} are {shares}: give rising numbers in [0, 1].")
    bits = np.stack([np.packbits(mask.ravel()) for mask, _ in rows])
    deltas = np.stack([delta for _, delta in rows])
    return LayerLevels(
        shares, jnp.asarray(bits), jnp.asarray(deltas) if deltas.any() else None, rows[0][0].shape
    )


def _bytes(params: Params) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))
