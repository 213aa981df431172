"""Pruning a whole model after training: stage by stage in the order in which the function runs its layers."""

import functools
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import CalibrationError
from sparsejax.masks.layer_masks import layer_leaves, mask_tree
from sparsejax.masks.mask_trees import validate
from sparsejax.masks.prunable import Layer, Override
from sparsejax.params.paths import flatten_with_paths
from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.byte_budget import sparsity_for_bytes
from sparsejax.post_training.chosen_layers import hold_out as part_batches
from sparsejax.post_training.chosen_layers import layers_in_order, with_sparsities
from sparsejax.post_training.layer_solving import LayerSolver, layer_output_error, relative, solve_layer
from sparsejax.post_training.matrices import without_axes
from sparsejax.post_training.results import LayerResult, PrunedModel
from sparsejax.post_training.sequential.flat_program import FlatProgram, Piece, nbytes
from sparsejax.post_training.sequential.moments import Totals, ordered
from sparsejax.post_training.sequential.row_weights import RowWeights, row_weights_of
from sparsejax.post_training.sequential.store import Store, fingerprint
from sparsejax.post_training.sequential.walk import Walk
from sparsejax.typing import Array, MaskTree, Params, Prunable

# Running sums are written down when this many seconds have passed since the last time.
_SAVE_EVERY = 30.0


def prune_model(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    solve: LayerSolver,
    sparsity: float | Mapping[str, float] | None = None,
    pattern: Pattern | None = None,
    max_bytes: int | None = None,
    held_out: Iterable[Any] | None = None,
    prunable: Prunable | None = None,
    ignore: Iterable[str] = (),
    overrides: Mapping[str, Override] | None = None,
    masks: MaskTree | None = None,
    start: Params | None = None,
    damping: float = 0.01,
    sequential: bool = True,
    targets: str = "asymmetric",
    row_weights: RowWeights = None,
    workdir: str | os.PathLike[str] | None = None,
    progress: Callable[[LayerResult], None] | None = None,
) -> PrunedModel:
    """Prunes every matrix product and convolution of a function with one solver.

    The tracer cuts the function in stages: layers none of which reads what another makes (query, key and value are
    one). Stage after stage all batches are brought to it, through the model pruned so far (Frantar and Alistarh,
    SparseGPT, section 4) and through the dense one beside it. The Gram matrices of the stage are summed, its layers
    solved, and the batches go on through what was made of them. Only what is live between two stages is kept of each
    batch: of a network of residual blocks one array. Layers that are stacked and scanned are stages of their own.

    With asymmetric targets a layer that reads X, where the dense model reads X_d, is solved for the dense model's
    own outputs, ``min ‖X_d Wᵀ − X Ŵᵀ‖²`` (see `asymmetric_target`), so that it also makes good what the layers before
    it did. Layers inside a loop or a branch that is not such a stack are solved for ``X Wᵀ``.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: its parameters.
      batches: tuples of inputs (what is not a tuple is the only input); kept in memory. Batches that are sharded over
        devices stay so.
      solve: a `LayerSolver`: `solve_alps`, a `functools.partial` of one, or your own.
      sparsity: fraction of zeros of every layer, in [0, 1], or ``{path pattern: fraction}`` (of `owl`, say), where what
        no pattern matches stays dense; None with N:M, or with `max_bytes`.
      pattern: `Unstructured` when None, `NM` or `Block`, along the input and output axes that the tracer finds.
      max_bytes: instead of a sparsity, the bytes that all parameters may take, each pruned layer stored as a bit for
        every weight and the kept values in their dtype; every layer gets the same sparsity, the least that fits.
      held_out: batches to measure the error on; when None every tenth of `batches`, at least the last.
      prunable: ``(path, leaf) -> bool``; `default_prunable` when None. Only what the function multiplies inputs by
        is looked at.
      ignore: path patterns of layers to leave as they are.
      overrides: what differs by path: `sparsity`, `pattern`, or `sparsejax.dense` to leave a layer as it is.
      masks: what earlier pruning left; what it removed stays removed. `sparsity` is still of all weights.
      start: the pruned model's parameters before its first layer is solved, where they differ from `params`: biases of
        units that were removed, say. What is not solved is returned as it is there.
      damping: λ in units of the mean diagonal of a Gram matrix, ≥ 0.
      sequential: False solves every layer on the dense model's inputs.
      targets: "asymmetric" or "symmetric" (``min ‖X (W − Ŵ)ᵀ‖²``); without effect where `sequential` is False.
      row_weights: what each calibration row counts. None: 1. "gradient": how much the dense model's result reads of
        it, by the gradient (see `row_weights_of`). A function ``(params, *inputs) -> {path pattern: weights ≥ 0}``,
        with one number for each row of the layer's input: its axes but the features, such as (batch, position).
      workdir: a folder for finished stages and running sums. Called again after a kill with the same arguments, it
        goes on and returns the same bytes as an unbroken run.
      progress: called with each `LayerResult` as soon as the layer is done.

    Returns:
      The pruned model.

    Raises:
      CalibrationError: no batch is left to hold out, or one does not fit; statistics that are not finite, with the
        layer's path; unknown targets; a workdir of another calibration, or one that cannot be written.
      TracingError, ParamsError, PathError, PatternError, SparsityError, MaskError: as each says.

    Warns:
      CalibrationWarning: fewer than five rows an input, damping that was raised, no convergence; with the path.
    """
    if targets not in ("asymmetric", "symmetric"):
        raise CalibrationError(f"targets={targets!r}: choose 'asymmetric' or 'symmetric'.")
    to_solve, unseen = part_batches(batches, held_out)
    if masks is not None:
        validate(masks, params)
    layers = layers_in_order(fn, params, to_solve[0], pattern, prunable, overrides, ignore)
    if isinstance(sparsity, Mapping):
        layers, sparsity = with_sparsities(layers, sparsity), None
    if max_bytes is not None:
        sparsity = sparsity_for_bytes(params, layers, max_bytes, sparsity)
    paired = sequential and targets == "asymmetric"
    walk = Walk(fn, params, [*to_solve, *unseen], frozenset(layer.index for layer in layers), paired=paired)
    options = _Options(solve, sparsity, damping, sequential, masks)
    store = None
    if workdir is not None:
        described = _description(walk, layers, options, paired, row_weights)
        store = Store(workdir, fingerprint(described, params, masks, start, to_solve, unseen))
    walk.weights = row_weights_of(row_weights, walk, params, [*to_solve, *unseen])
    run = _Run(walk, params, start, layers, options, len(to_solve), store)
    for number in range(len(walk.stages)):
        for result in run.stage(number):
            if progress is not None:
                progress(result)
    return run.finished(params if start is None else start)


class _Options(NamedTuple):
    """What holds for all layers."""

    solve: LayerSolver
    sparsity: float | None
    damping: float
    sequential: bool
    masks: MaskTree | None


class _Run:
    """The state of a calibration: parameters pruned so far, masks, and results."""

    def __init__(
        self,
        walk: Walk,
        params: Params,
        start: Params | None,
        layers: Sequence[Layer],
        options: _Options,
        solved_on: int,
        store: Store | None,
    ) -> None:
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
        """Solves the layers of a stage, or reads them from the store, and goes on to the next stage."""
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


def _description(
    walk: Walk, layers: Sequence[Layer], options: _Options, paired: bool, row_weights: RowWeights
) -> str:
    """All that the result depends on beside arrays, in words."""
    programs: list[FlatProgram] = list(walk.programs.values())
    lines = [i.text for program in programs for i in program.instructions]
    constants = fingerprint([list(program.constants.values()) for program in programs])
    text = "\n".join(
        [
            *lines,
            constants,
            *(str(layer) for layer in layers),
            _name(options.solve),
            f"{options.sparsity!r} {options.damping!r} {options.sequential} {paired}",
            row_weights if isinstance(row_weights, str) else _name(row_weights),
            f"jax {jax.__version__} on {jax.default_backend()}",
        ]
    )
    return re.sub(r"0x[0-9a-f]+", "", text)


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        return f"{_name(function.func)} {function.args} {sorted(function.keywords.items())}"
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
