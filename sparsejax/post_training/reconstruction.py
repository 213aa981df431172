"""Reconstruction: a few hundred steps of Adam on fixed masks towards the dense model, block by block or as a whole."""

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax.errors import CalibrationError
from sparsejax.masks.mask_trees import fit_masks
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_callable, require_same_shapes
from sparsejax.params.paths import flatten_with_paths
from sparsejax.post_training.chosen_layers import hold_out
from sparsejax.post_training.gram import CalibrationWarning
from sparsejax.post_training.sequential.blocks import find_blocks
from sparsejax.post_training.sequential.flat_program import FlatProgram, flatten
from sparsejax.post_training.sequential.segments import advance, arguments, cut, make_passage
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.typing import Array, MaskTree, Params

#: ``loss(trained leaves, batch) -> scalar``
Loss = Callable[[list[Array], Any], Array]


class BlockResult(NamedTuple):
    """What reconstruction did to one block.

    Attributes:
      layers: paths of its layers.
      before: its loss on the batches held out, before.
      after: the same after. Where it would have risen the block keeps the parameters it came with, and this is
        `before`.
      seconds: that it took.
    """

    layers: tuple[str, ...]
    before: float
    after: float
    seconds: float


class Reconstruction(NamedTuple):
    """A reconstructed model.

    Attributes:
      params: zero off the masks.
      blocks: one result for each block, or for the whole model.
    """

    params: Params
    blocks: tuple[BlockResult, ...]


def reconstruct(
    fn: Callable[..., Any],
    params: Params,
    masks: MaskTree,
    batches: Iterable[Any],
    *,
    dense: Params,
    objective: str = "blocks",
    steps: int = 300,
    learning_rate: float = 5e-4,
    held_out: Iterable[Any] | None = None,
    progress: Callable[[BlockResult], None] | None = None,
) -> Reconstruction:
    """Trains the kept weights, biases and norms of a pruned model towards the dense one, without labels.

    By blocks: ``min ‖B(X; θ) − B_d(X_d)‖² / ‖B_d(X_d)‖²`` for one block B after another, X through the blocks before
    as they have become, X_d and the target through the dense model. The tracer finds the blocks (see `find_blocks`);
    only what is live between two of them is kept of each batch. By "kl": ``min KL(softmax fn(θ_d, x) ‖ softmax
    fn(θ, x))`` over the whole model, the result's last axis being logits. Both by Adam on a cosine from
    `learning_rate` to 0, one batch a step, over and over in the given order.

    Args:
      fn: ``fn(params, *inputs)``.
      params: pruned; put on the masks first.
      masks: the mask tree; they stay.
      batches: tuples of inputs, all of one shape; each is one step's batch.
      dense: the dense parameters.
      objective: "blocks" or "kl".
      steps: of Adam, for each block.
      learning_rate: the highest.
      held_out: batches to measure on; when None every tenth of `batches`, at least the last.
      progress: called with each `BlockResult`.

    Returns:
      The parameters and what became of each block. A leaf that several blocks read (a tied embedding) is trained by
      "kl" only.

    Raises:
      CalibrationError: an unknown objective, no batch to hold out, batches of several shapes, a loss that is not
        finite (with the block's layers), steps or learning rate out of range.
      MaskError: masks that do not fit.
      ParamsError: dense parameters of other paths or shapes.

    Warns:
      CalibrationWarning: a block whose held-out loss rose, and which was left as it was.

    Source: Frantar, Singh and Alistarh, "Optimal Brain Compression", arXiv 2208.11580, section 6 (blocks after
    one-shot); Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
    """
    if objective not in ("blocks", "kl"):
        raise CalibrationError(f"objective={objective!r}: choose 'blocks' or 'kl'.")
    require_numbers(CalibrationError, least=1, whole=True, steps=steps)
    require_numbers(CalibrationError, above=True, learning_rate=learning_rate)
    if progress is not None:
        require_callable(progress, "progress", "BlockResult -> None", CalibrationError)
    masks = fit_masks(masks, params)
    require_same_shapes(dense, params, "dense is of another network than params")
    train, unseen = hold_out(batches, held_out)
    shapes = {str(jax.tree.map(np.shape, jaxprs.as_tuple(batch))) for batch in (*train, *unseen)}
    if len(shapes) > 1:
        raise CalibrationError(f"The batches have several shapes ({', '.join(sorted(shapes))}); give one.")
    _, leaves, treedef = flatten_with_paths(params)
    kept = flatten_with_paths(masks)[1]
    leaves = [jnp.where(m, p, 0).astype(p.dtype) for p, m in zip(leaves, kept, strict=True)]
    task = _Task(fn, treedef, leaves, kept, flatten_with_paths(dense)[1], steps, learning_rate)
    results = task.whole(train, unseen) if objective == "kl" else task.by_blocks(train, unseen)
    made = []
    for result in results:
        made.append(result)
        if progress is not None:
            progress(result)
    return Reconstruction(jax.tree.unflatten(treedef, task.leaves), tuple(made))


class _Task:
    """Leaves on their way, and how they are trained."""

    def __init__(
        self,
        fn: Callable[..., Any],
        treedef: Any,
        leaves: list[Array],
        masks: Sequence[Array],
        dense: Sequence[Array],
        steps: int,
        learning_rate: float,
    ) -> None:
        self.leaves = leaves
        self._fn, self._treedef, self._masks, self._dense = fn, treedef, masks, dense
        self._steps = steps
        self._optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def whole(self, train: Sequence[Any], unseen: Sequence[Any]) -> Iterable[BlockResult]:
        own = [i for i, leaf in enumerate(self.leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        fixed = list(self.leaves)

        def loss(trained: list[Array], inputs: tuple[Any, ...]) -> Array:
            now = _with(fixed, own, trained)
            logits = self._fn(jax.tree.unflatten(self._treedef, now), *inputs)
            target = self._fn(jax.tree.unflatten(self._treedef, self._dense), *inputs)
            return _divergence(target, logits)

        batches = [[jaxprs.as_tuple(batch) for batch in part] for part in (train, unseen)]
        paths = flatten_with_paths(jax.tree.unflatten(self._treedef, self.leaves))[0]
        names = tuple(paths[i] for i in own if np.ndim(self._masks[i]))
        yield self._train(own, loss, *batches, names)

    def by_blocks(self, train: Sequence[Any], unseen: Sequence[Any]) -> Iterable[BlockResult]:
        params = jax.tree.unflatten(self._treedef, self.leaves)
        pruned = frozenset(i for i, mask in enumerate(self._masks) if np.ndim(mask))
        program = flatten(self._fn, params, train[0], pruned)
        blocks = find_blocks(program)
        start = [
            dict(zip(program.inputs, jax.tree.leaves(jaxprs.as_tuple(batch)), strict=True))
            for batch in (*train, *unseen)
        ]
        here, there, compiled = start, start, {}
        for number, block in enumerate(blocks):
            last = number + 1 == len(blocks)
            wanted = program.outputs if last else program.live(block.end)
            onward = make_passage(program, block.begin, block.end)
            targets = [
                _run(program, block.begin, block.end, wanted, self._dense, live, compiled) for live in there
            ]
            own = [i for i in block.leaves if jnp.issubdtype(self.leaves[i].dtype, jnp.floating)]
            loss = _block_loss(program, block.begin, block.end, wanted, list(self.leaves), own)
            pairs = list(zip(here, targets, strict=True))
            if own and block.layers:
                yield self._train(own, loss, pairs[: len(train)], pairs[len(train) :], block.layers)
            if not last:
                here = [advance(onward, self.leaves, live, compiled) for live in here]
                there = [advance(onward, self._dense, live, compiled) for live in there]

    def _train(
        self, own: list[int], loss: Loss, train: Sequence[Any], unseen: Sequence[Any], names: tuple[str, ...]
    ) -> BlockResult:
        begin = time.perf_counter()
        masks = [self._masks[i] for i in own]
        measure = jax.jit(loss)

        @partial(jax.jit, donate_argnums=1)
        def step(trained: list[Array], state: Any, batch: Any) -> tuple[list[Array], Any, Array]:
            value, slopes = jax.value_and_grad(loss)(trained, batch)
            slopes = [jnp.where(m, g, 0) for g, m in zip(slopes, masks, strict=True)]
            updates, state = self._optimizer.update(slopes, state, trained)
            return optax.apply_updates(trained, updates), state, value

        first = [self.leaves[i] for i in own]
        before = float(np.mean([measure(first, batch) for batch in unseen]))
        trained, state = first, self._optimizer.init(first)
        for number in range(self._steps):
            trained, state, value = step(trained, state, train[number % len(train)])
        after = float(np.mean([measure(trained, batch) for batch in unseen]))
        if not np.isfinite(before) or not np.isfinite(float(value)):
            raise CalibrationError(
                f"The loss of the block of {', '.join(names)} is not finite ({before:g} before, {float(value):g} at "
                "the last step). Lower the learning rate, or look for overflow in the activations."
            )
        if not after <= before:
            warnings.warn(
                f"The block of {', '.join(names)} is left as it was: its held-out loss rose from {before:.3g} to "
                f"{after:.3g}. Give more batches, fewer steps or a lower learning rate.",
                CalibrationWarning,
                stacklevel=3,
            )
            after = before
        else:
            self.leaves = _with(self.leaves, own, trained)
        return BlockResult(names, before, after, time.perf_counter() - begin)


def _with(leaves: Sequence[Array], places: Sequence[int], values: Sequence[Array]) -> list[Array]:
    changed = list(leaves)
    for place, value in zip(places, values, strict=True):
        changed[place] = value
    return changed


def _run(
    program: FlatProgram,
    begin: int,
    end: int,
    wanted: Sequence[Any],
    leaves: Sequence[Array],
    live: dict[int, Any],
    compiled: dict[str, Callable[..., Any]],
) -> list[Any]:
    segment = cut(program, begin, end, wanted)
    run = compiled.setdefault(f"advance {segment.text}", jax.jit(segment.run))
    return run(*arguments(program, segment, leaves, live))


def _block_loss(
    program: FlatProgram,
    begin: int,
    end: int,
    wanted: Sequence[Any],
    fixed: list[Array],
    own: Sequence[int],
) -> Loss:
    segment = cut(program, begin, end, wanted)

    def loss(trained: list[Array], batch: tuple[dict[int, Any], list[Any]]) -> Array:
        live, targets = batch
        found = segment.run(*arguments(program, segment, _with(fixed, own, trained), live))
        error = size = jnp.zeros(())
        for value, target in zip(found, targets, strict=True):
            if jnp.issubdtype(jnp.result_type(value), jnp.floating):
                value, target = (jnp.asarray(x, jnp.float32) for x in (value, target))
                error += jnp.sum((value - target) ** 2)
                size += jnp.sum(target**2)
        return error / jnp.maximum(size, jnp.finfo(jnp.float32).tiny)

    return loss


def _divergence(target: Array, logits: Array) -> Array:
    """The mean KL divergence of the softmax of two arrays of logits."""
    if not getattr(logits, "shape", ()):
        raise CalibrationError(
            f"objective='kl': the function gives {type(logits).__name__}; it should give logits, classes last."
        )
    p, q = (jax.nn.log_softmax(x.astype(jnp.float32)) for x in (target, logits))
    return jnp.mean(jnp.sum(jnp.exp(p) * (p - q), -1))
