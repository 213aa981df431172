"""The run of a calibration: stage after stage is summed, solved, measured, written down, and gone on from."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.masks.layer_masks import layer_leaves, mask_tree
from sparsejax.masks.prunable import Layer
from sparsejax.params.paths import flatten_with_paths
from sparsejax.post_training.layer_solving import LayerSolver, layer_output_error, relative, solve_layer
from sparsejax.post_training.matrices import without_axes
from sparsejax.post_training.results import LayerResult, PrunedModel
from sparsejax.post_training.sequential.flat_program import Piece, nbytes
from sparsejax.post_training.sequential.moments import Totals, ordered
from sparsejax.post_training.sequential.store import Store
from sparsejax.post_training.sequential.walk import Walk
from sparsejax.typing import Array, MaskTree, Params

# Running sums are written down when this many seconds have passed since the last time.
_SAVE_EVERY = 30.0


class Options(NamedTuple):
    """What holds for all layers.

    Attributes:
      solve: the layer solver.
      sparsity: of layers that have none of their own.
      damping: λ.
      sequential: whether the pruned model's inputs are calibrated on.
      masks: earlier masks, or None.
    """

    solve: LayerSolver
    sparsity: float | None
    damping: float
    sequential: bool
    masks: MaskTree | None


class CalibrationRun:
    """The state of a calibration: parameters pruned so far, masks, and results.

    Attributes:
      results: what is done, by path.
    """

    def __init__(
        self,
        walk: Walk,
        params: Params,
        start: Params | None,
        layers: Sequence[Layer],
        options: Options,
        solved_on: int,
        store: Store | None,
    ) -> None:
        """Brings all batches to the first stage.

        Args:
          walk: all batches, those to solve on first.
          params: dense.
          start: the pruned model's before anything is solved; None: `params`.
          layers: to prune.
          options: for all of them.
          solved_on: how many batches to solve on; the others measure the error.
          store: what a killed run left, or None.
        """
        self._walk, self._options, self._store = walk, options, store
        self._dense = [jnp.asarray(leaf) for leaf in flatten_with_paths(params)[1]]
        self._leaves = list(self._dense)
        if start is not None:
            self._leaves = [jnp.asarray(leaf) for leaf in flatten_with_paths(start)[1]]
        self._layers = {layer.index: layer for layer in layers}
        earlier = None if options.masks is None else layer_leaves(options.masks, tuple(layers))
        self._earlier = dict(zip(self._layers, earlier or [None] * len(layers), strict=True))
        self._masks: dict[int, Array] = {}
        self._notes: dict[int, list[dict[str, Any]]] = {index: [] for index in self._layers}
        self._left = {index: sum(p[0] == index for s in walk.stages for p in s) for index in self._layers}
        self._batches = range(solved_on), range(solved_on, len(walk.weights))
        self.results: dict[str, LayerResult] = {}
        walk.start(self._leaves if options.sequential else self._dense, self._dense)

    def stage(self, number: int) -> list[LayerResult]:
        """Solves the layers of a stage, or reads them from the store, and goes on to the next stage.

        Args:
          number: of the stage; one after another.

        Returns:
          The results of the parameters that are finished with it.
        """
        found = self._store.stage(number) if self._store else None
        if found is None:
            found = self._solve(number)
            if self._store is not None:
                self._store.save_stage(number, *found)
        arrays, notes = found
        for i, (piece, about) in enumerate(zip(self._walk.stages[number], notes, strict=True)):
            self._put(piece, jnp.asarray(arrays[f"weights_{i}"]), jnp.asarray(arrays[f"mask_{i}"]), about)
        self._walk.advance(self._leaves if self._options.sequential else self._dense, self._dense)
        return self._done(piece[0] for piece in self._walk.stages[number])

    def _solve(self, number: int) -> tuple[dict[str, Array], list[dict[str, Any]]]:
        begin = time.perf_counter()
        sums = self._sums(number, self._batches[0], self._store)
        kept, peak = self._walk.nbytes + nbytes(jax.tree.leaves(sums.moments)), _peak_bytes()
        arrays: dict[str, Array] = {}
        notes = []
        for i, piece in enumerate(self._walk.stages[number]):
            leaf, layer, earlier = self._piece(piece)
            solved = solve_layer(
                leaf,
                layer,
                ordered(sums.moments[piece], sums.stacked[piece]),
                self._options.solve,
                sparsity=self._options.sparsity if layer.sparsity is None else layer.sparsity,
                earlier=earlier,
                damping=self._options.damping,
            )
            arrays |= {f"weights_{i}": solved.weights, f"mask_{i}": solved.mask}
            about = {key: getattr(solved, key) for key in ("error", "size", "rows", "damping", "converged")}
            notes.append({**about, "kept_bytes": kept, "peak_bytes": max(peak, _peak_bytes())})
        seconds = time.perf_counter() - begin
        del sums
        unseen = self._sums(number, self._batches[1], None)
        for i, piece in enumerate(self._walk.stages[number]):
            leaf, layer, _ = self._piece(piece)
            error = layer_output_error(
                leaf, arrays[f"weights_{i}"], layer, ordered(unseen.moments[piece], unseen.stacked[piece])
            )
            share = seconds / len(notes)
            notes[i] |= {"held_out_error": error[0], "held_out_size": error[1], "seconds": share}
        return arrays, notes

    def _sums(self, number: int, batches: Sequence[int], store: Store | None) -> Totals:
        """The sums of a stage over some batches, from where a killed run left them."""
        first, totals = 0, None
        running = None if store is None else store.running(number)
        if running is not None:
            first, totals = running[0], _read_totals(*running[1:])
        saved = time.monotonic()
        for i in batches[first:]:
            totals = self._walk.collect(
                i, self._leaves if self._options.sequential else self._dense, self._dense, totals
            )
            if store is not None and time.monotonic() - saved >= _SAVE_EVERY:
                store.save_running(number, i + 1, *_write_totals(totals))
                saved = time.monotonic()
        return totals

    def _piece(self, piece: Piece) -> tuple[Array, Layer, Array | None]:
        """The dense weights, the layer and the earlier mask of a piece."""
        index, taken = piece
        layer, earlier = self._layers[index], self._earlier[index]
        place = _place(piece, len(layer.shape))
        if earlier is not None and np.ndim(earlier):
            earlier = jnp.broadcast_to(earlier, layer.shape)[place]
        return self._dense[index][place], without_axes(layer, tuple(axis for axis, _ in taken)), earlier

    def _put(self, piece: Piece, weights: Array, mask: Array, about: dict[str, Any]) -> None:
        index, taken = piece
        if taken:
            place = _place(piece, len(self._layers[index].shape))
            weights = self._leaves[index].at[place].set(weights)
            before = self._masks.get(index)
            whole = jnp.ones(weights.shape, bool) if before is None else before
            mask = whole.at[place].set(mask)
        self._leaves[index], self._masks[index] = weights, mask
        self._notes[index].append(about)
        self._left[index] -= 1

    def _done(self, indices: Iterable[int]) -> list[LayerResult]:
        """The results of the parameters that are finished with this stage."""
        made = []
        for index in dict.fromkeys(indices):
            if self._left[index] == 0:
                made.append(_result(self._layers[index].path, self._masks[index], self._notes[index]))
        self.results |= {result.path: result for result in made}
        return made

    def finished(self, params: Params) -> PrunedModel:
        """Puts the solved layers in a tree.

        Args:
          params: what all other leaves are.

        Returns:
          The pruned model.
        """
        layers = tuple(self._layers.values())
        tree = mask_tree(params, layers, [self._masks[layer.index] for layer in layers])
        leaves = list(flatten_with_paths(params)[1])
        for layer in layers:
            leaves[layer.index] = self._leaves[layer.index]
        done = jax.tree.unflatten(flatten_with_paths(params)[2], leaves)
        return PrunedModel(done, tree, self.results)


def _place(piece: Piece, rank: int) -> tuple[Any, ...]:
    taken = dict(piece[1])
    return tuple(taken.get(axis, slice(None)) for axis in range(rank))


def _result(path: str, mask: Array, notes: Sequence[Mapping[str, Any]]) -> LayerResult:
    def total(name: str) -> float:
        return sum(about[name] for about in notes)

    return LayerResult(
        path=path,
        sparsity=1 - float(jnp.mean(mask)),
        error=relative(total("error"), total("size")),
        held_out_error=relative(total("held_out_error"), total("held_out_size")),
        rows=min(about["rows"] for about in notes),
        damping=max(about["damping"] for about in notes),
        converged=all(about["converged"] for about in notes),
        seconds=total("seconds"),
        kept_bytes=max(about["kept_bytes"] for about in notes),
        peak_bytes=max(about["peak_bytes"] for about in notes),
    )


def _write_totals(totals: Totals) -> tuple[dict[str, Array], Any]:
    arrays = {
        f"{i} {name}": array
        for i, moments in enumerate(totals.moments.values())
        for name, array in moments.items()
    }
    return arrays, [[piece, totals.stacked[piece]] for piece in totals.moments]


def _read_totals(arrays: Mapping[str, np.ndarray], notes: Any) -> Totals:
    moments: dict[Piece, dict[str, Array]] = {}
    stacked = {}
    for i, ((index, taken), axes) in enumerate(notes):
        piece = index, tuple((axis, place) for axis, place in taken)
        stacked[piece] = tuple(axes)
        prefix = f"{i} "
        moments[piece] = {
            key.removeprefix(prefix): jnp.asarray(array)
            for key, array in arrays.items()
            if key.startswith(prefix)
        }
    return Totals(moments, stacked)


def _peak_bytes() -> int:
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    told = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return max(told) if told else sum(array.nbytes for array in jax.live_arrays())
