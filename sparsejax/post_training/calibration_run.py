"""The run of a calibration: stage after stage is summed, solved, measured, written down, and gone on from."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.masks.layer_masks import layer_leaves, mask_tree
from sparsejax.params.paths import flatten_with_paths
from sparsejax.post_training.layer_solving import Solved, warn_of_no_unseen_row
from sparsejax.post_training.matrices import without_axes
from sparsejax.post_training.output_errors import checked_errors, relative
from sparsejax.post_training.piece_solving import PieceSolver
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
      solver: solves them.
      sequential: whether the pruned model's inputs are calibrated on.
      masks: earlier masks, or None.
    """

    solver: PieceSolver
    sequential: bool
    masks: MaskTree | None


class CalibrationRun:
    """The state of a calibration: parameters pruned so far, masks, and results.

    Attributes:
      results: what is done, by path.
      also: for each layer's leaf what its solver gave beside weights and mask, by name.
    """

    def __init__(
        self,
        walk: Walk,
        params: Params,
        start: Params | None,
        layers: Sequence[Any],
        options: Options,
        solved_on: int,
        store: Store | None,
    ) -> None:
        """Brings all batches to the first stage.

        Args:
          walk: all batches, those to solve on first.
          params: dense.
          start: the pruned model's before anything is solved; None: `params`.
          layers: to solve: `Layer`s, or whatever else with index, path, shape and axes the solver takes.
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
        self.also: dict[int, dict[str, Array]] = {}
        self._touched: set[int] = set()
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
            own = {
                name.split(" ", 1)[1]: jnp.asarray(a)
                for name, a in arrays.items()
                if name.split()[0] == str(i)
            }
            self._put(piece, own, about)
        self._walk.advance(self._leaves if self._options.sequential else self._dense, self._dense)
        return self._done(piece[0] for piece in self._walk.stages[number])

    def _solve(self, number: int) -> tuple[dict[str, Array], list[dict[str, Any]]]:
        begin = time.perf_counter()
        sums = self._sums(number, self._batches[0], self._store)
        kept, peak = self._walk.nbytes + nbytes(jax.tree.leaves(sums.moments)), _peak_bytes()
        stage, solver = self._walk.stages[number], self._options.solver
        made = []
        for piece in stage:
            leaf, layer, earlier = self._piece(piece)
            # Popped and named nowhere: no second copy of the sums stays while a piece is solved, nor a first one after.
            solved = solver.solve(
                piece, leaf, layer, ordered(sums.moments.pop(piece), sums.stacked[piece]), earlier
            )
            made.append((solved, max(peak, _peak_bytes())))
        seconds = (time.perf_counter() - begin) / len(stage)
        del sums
        unseen = self._sums(number, self._batches[1], None)
        arrays: dict[str, Array] = {}
        notes = []
        for i, (piece, (solved, peak)) in enumerate(zip(stage, made, strict=True)):
            layer = self._layers[piece[0]]
            checked_errors(layer.path, "calibration rows", solved.error, solved.size)
            error, size = self._unseen_errors(
                piece, solved, ordered(unseen.moments[piece], unseen.stacked[piece])
            )
            about = {key: getattr(solved, key) for key in ("error", "size", "rows", "damping", "converged")}
            about |= {"held_out_error": error, "held_out_size": size, "seconds": seconds}
            notes.append({**about, "kept_bytes": kept, "peak_bytes": peak, "others": list(solved.others)})
            named = {"weights": solved.weights, "mask": solved.mask, **solved.also}
            named |= {f"other {j}": array for j, array in enumerate(solved.others.values())}
            arrays |= {f"{i} {name}": array for name, array in named.items()}
        return arrays, notes

    def _unseen_errors(self, piece: Piece, solved: Solved, sums: Mapping[str, Array]) -> tuple[float, float]:
        leaf, layer, _ = self._piece(piece)
        if not np.any(sums["count"]):
            warn_of_no_unseen_row(layer.path)
            return np.nan, np.nan
        found = self._options.solver.error(piece, leaf, solved, layer, sums)
        return checked_errors(layer.path, "batches held out", *found)

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

    def _piece(self, piece: Piece) -> tuple[Array, Any, Array | None]:
        """The dense weights, the layer and the earlier mask of a piece."""
        index, taken = piece
        layer, earlier = self._layers[index], self._earlier[index]
        place = _place(piece, len(layer.shape))
        if earlier is not None and np.ndim(earlier):
            earlier = jnp.broadcast_to(earlier, layer.shape)[place]
        return self._dense[index][place], without_axes(layer, tuple(axis for axis, _ in taken)), earlier

    def _put(self, piece: Piece, arrays: dict[str, Array], about: dict[str, Any]) -> None:
        index = piece[0]
        others = [arrays.pop(f"other {j}") for j in range(len(about["others"]))]
        self._set(piece, arrays.pop("weights"))
        for (other, taken), array in zip(about["others"], others, strict=True):
            self._set((other, tuple(map(tuple, taken))), array)
        ones = jnp.ones(self._layers[index].shape, bool)
        self._masks[index] = _placed(piece, self._masks.get(index, ones), arrays.pop("mask"))
        before = self.also.setdefault(index, {})
        for name, array in arrays.items():
            whole = before.get(name, jnp.zeros(self._layers[index].shape, array.dtype))
            before[name] = _placed(piece, whole, array)
        self._notes[index].append(about)
        self._left[index] -= 1

    def _set(self, piece: Piece, array: Array) -> None:
        self._leaves[piece[0]] = _placed(piece, self._leaves[piece[0]], array)
        self._touched.add(piece[0])

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
        for index in self._touched:
            leaves[index] = self._leaves[index]
        done = jax.tree.unflatten(flatten_with_paths(params)[2], leaves)
        return PrunedModel(done, tree, self.results)


def _place(piece: Piece, rank: int) -> tuple[Any, ...]:
    taken = dict(piece[1])
    return tuple(taken.get(axis, slice(None)) for axis in range(rank))


def _placed(piece: Piece, whole: Array, array: Array) -> Array:
    """An array with a piece of it replaced."""
    return whole.at[_place(piece, whole.ndim)].set(array) if piece[1] else array


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
