"""Training in the compressed form: parameters, gradients and moments exist for live blocks only."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax.errors import ParamsError
from sparsejax.kernels.block_sparse import BlockSparse, check_capacity, is_block_sparse
from sparsejax.kernels.block_view import (
    block_view,
    compress,
    kernel_layers,
    matrix_shape,
    pooled_kernels,
    score_view,
)
from sparsejax.kernels.topology import Topology, rewired
from sparsejax.masks.packed import unpack_tree
from sparsejax.params.check_values import require_optimizer
from sparsejax.params.kept_count import is_concrete
from sparsejax.params.paths import flatten_with_paths
from sparsejax.transforms.reset_moments import reset_off_mask
from sparsejax.transforms.sparse_transformation import SparseTransformation
from sparsejax.transforms.state import get_masks
from sparsejax.typing import Array, ArrayLike, Params, Prunable

#: A recipe that waits for its optimizer: ``functools.partial(sparsejax.rigl, sparsity=0.9, …)``.
Recipe = Callable[[optax.GradientTransformation], SparseTransformation]


class CompressedState(NamedTuple):
    """The state of `train_compressed`.

    Attributes:
      masks: the recipe's state, with one mask entry a block.
      inner_state: the inner optimizer's: moments of live blocks, (capacity, block inputs, block outputs).
    """

    masks: Any
    inner_state: Any


class CompressedTransformation(SparseTransformation):
    """An optax transformation of parameters with `BlockSparse` in them; `start` makes those.

    Attributes:
      recipe: the recipe's transformation, of the tree with one number a block.
      block: inputs and outputs of one block.
      prunable: which leaves are kernels.
    """

    recipe: SparseTransformation
    block: tuple[int, int]
    prunable: Prunable | None


def train_compressed(
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    *,
    block: tuple[int, int],
    prunable: Prunable | None = None,
) -> CompressedTransformation:
    """Trains any recipe of masks on blocks, in a form in which dead blocks do not exist.

    The recipe decides on the tree of one number a block: mean |w| in the place of the weights, mean |∂L/∂w| in
    that of the gradients. So RigL is RigL with `patterns.Block`, without a dense gradient or a mask of weights:
    it drops, grows and trains what the masked form does. A block stays in its slot while it lives; one that
    grows takes a dead slot, with zero values and fresh moments. Which slot holds which block are integer
    leaves of the parameters, whose updates are differences: `optax.apply_updates` serves.

    ``update(grads, state, params, *, step=None, dense_grads_fn=None, **extra)`` with
    ``grads = jax.grad(loss, allow_int=True)(params)``; a recipe that reads gradients of dead blocks (`rigl`)
    needs ``dense_grads_fn=lambda: jax.grad(loss, allow_int=True)(with_probes(params))``.

    The inner optimizer sees (capacity, block inputs, block outputs) for a kernel: sgd, adamw and lion, which
    look at single weights, and a clip of the global norm do what they do to the masked form; adafactor and
    muon, which look at matrices, do not.

    Args:
      optimizer: any optax optimizer.
      recipe: `functools.partial(sparsejax.rigl, sparsity=0.9, total_steps=1000, key=key)` or another, with
        the pattern of single weights: an entry is a block already.
      block: inputs and outputs of one block; they divide every kernel.
      prunable: which leaves are kernels, a superset of the recipe's; the library's default filter when None.

    Returns:
      The optax transformation.

    Raises:
      ParamsError: an optimizer that is none; at updates, dense parameters, or no `dense_grads_fn` where needed.

    Example:
      >>> import functools, sparsejax
      >>> recipe = functools.partial(sparsejax.static_random, sparsity=0.5, key=jax.random.key(0))
      >>> tx = train_compressed(optax.sgd(0.1), recipe, block=(2, 2))
      >>> params, state = start(tx, {"kernel": jnp.ones((4, 4))})
      >>> params["kernel"].data.shape
      (2, 2, 2)

    Source: Evci et al., "Rigging the Lottery", arXiv 1911.11134, algorithm 1, over blocks; Gray et al., "GPU
    kernels for block-sparse weights", 2017, for a static layout of them.
    """
    require_optimizer(optimizer)
    inner = optax.with_extra_args_support(optimizer)
    decide = recipe(optax.identity())

    def init_fn(params: Params) -> CompressedState:
        _check_compressed(params)
        return CompressedState(decide.init(block_view(params)), inner.init(_values(params)))

    def update_fn(
        grads: Params,
        state: CompressedState,
        params: Params | None = None,
        *,
        step: ArrayLike | None = None,
        dense_grads_fn: Any = None,
        **extra: Any,
    ) -> tuple[Params, CompressedState]:
        _check_compressed(params)
        count = state.masks.count if step is None else jnp.asarray(step)
        masks = _next_masks(decide, grads, state.masks, params, count, dense_grads_fn)
        due = jnp.asarray(False) if decide.times is None else decide.times.due(count)
        topologies, keep = _rewired(params, get_masks(masks), due)
        values, gradients = _values(params), _put(_values(grads), keep)
        inner_state = reset_off_mask(inner, state.inner_state, keep, _put(values, keep))
        updates, inner_state = inner.update(gradients, inner_state, values, **extra)
        hold = due if decide.replaces_step and decide.times is not None else None
        landed = jax.tree.map(lambda *leaves: _land(*leaves, hold), updates, values, keep)
        return _updates(landed, params, topologies), CompressedState(masks, inner_state)

    tx = CompressedTransformation(
        init_fn, update_fn, decide.times, decide.reads_gradient, decide.replaces_step
    )
    tx.recipe, tx.block, tx.prunable = decide, tuple(block), prunable
    return tx


def start(
    tx: CompressedTransformation, params: Params, capacities: dict[str, int] | None = None
) -> tuple[Params, CompressedState]:
    """Starts training in the compressed form: the first masks, the live blocks, then the optimizer's state.

    Args:
      tx: from `train_compressed`.
      params: dense parameters.
      capacities: blocks to make room for, by path; where it says nothing, as many as the first masks keep. Under
        jit these must be said: see `first_capacities`.

    Returns:
      ``(params, state)``.

    Raises:
      PatternError: a block that does not divide a kernel.
      CapacityError: under jit without `capacities`.

    Example:
      >>> import functools, sparsejax
      >>> recipe = functools.partial(sparsejax.gmp, sparsity=0.5, begin_step=0, end_step=9, update_every=3)
      >>> params, state = start(train_compressed(optax.sgd(0.1), recipe, block=(2, 2)), {"kernel": jnp.ones((4, 4))})
      >>> params["kernel"].capacity  # gradual pruning begins dense
      4
    """
    view = pooled_kernels(params, kernel_layers(params, tx.prunable), tx.block)
    masks = tx.recipe.init(view).masks
    compressed = compress(params, unpack_tree(masks), tx.block, capacities, tx.prunable)
    state = tx.init(compressed)
    if is_concrete(jax.tree.leaves(compressed)[0]):
        check_capacity(compressed)
    # The recipe drew its masks from the dense weights; from here on it sees the pooled live blocks.
    return compressed, state._replace(masks=state.masks._replace(masks=masks))


def first_capacities(tx: CompressedTransformation, params: Params) -> dict[str, int]:
    """Counts the blocks that the first masks keep, where counts follow from shapes and not from values.

    Args:
      tx: from `train_compressed`, with a random key that is no tracer.
      params: dense parameters, or shapes.

    Returns:
      Path to blocks, at least 1.

    Example:
      >>> import functools, sparsejax
      >>> recipe = functools.partial(sparsejax.static_random, sparsity=0.75, key=jax.random.key(0))
      >>> tx = train_compressed(optax.sgd(0.1), recipe, block=(2, 2))
      >>> first_capacities(tx, {"kernel": jax.ShapeDtypeStruct((8, 8), "float32")})
      {'kernel': 4}
    """
    with jax.ensure_compile_time_eval():
        paths, leaves, treedef = flatten_with_paths(params)
        view = [jnp.zeros((), leaf.dtype) for leaf in leaves]
        for layer in kernel_layers(params, tx.prunable):
            inputs, outputs = matrix_shape(layer)
            view[layer.index] = jnp.zeros((inputs // tx.block[0], outputs // tx.block[1]))
        masks = get_masks(tx.recipe.init(jax.tree.unflatten(treedef, view)))
        counts = [int(np.sum(mask)) if mask.ndim else 0 for mask in jax.tree.leaves(masks)]
    return {path: max(count, 1) for path, count, leaf in zip(paths, counts, view, strict=True) if leaf.ndim}


def _next_masks(
    decide: SparseTransformation, grads: Params, state: Any, params: Params, count: Array, dense_grads_fn: Any
) -> Any:
    """The recipe's state after this step."""
    if decide.reads_gradient and dense_grads_fn is None:
        raise ParamsError(
            "This recipe reads the gradient of dead blocks, which the gradient of the parameters does not have: pass "
            "dense_grads_fn=lambda: jax.grad(loss, allow_int=True)(sparsejax.kernels.with_probes(params))."
        )
    dense = None if dense_grads_fn is None else lambda: score_view(dense_grads_fn(), params)
    seen = score_view(grads, params)
    return decide.update(seen, state, block_view(params), step=count, dense_grads_fn=dense)[1]


def _rewired(params: Params, masks: Any, due: Array) -> tuple[list[Topology | None], Any]:
    """The topologies on the new masks, and which slots keep their block; computed where masks are due only."""
    leaves, treedef = jax.tree.flatten(params, is_leaf=is_block_sparse)
    chosen = [(leaf.topology, mask) for leaf, mask in zip(leaves, jax.tree.leaves(masks), strict=True)
              if is_block_sparse(leaf)]  # fmt: skip
    old = [topology for topology, _ in chosen]

    def change(old: list[Topology]) -> list[tuple[Topology, Array]]:
        return _rewired_together(old, [mask for _, mask in chosen])

    def stay(old: list[Topology]) -> list[tuple[Topology, Array]]:
        return [(topology, topology.is_live) for topology in old]

    if is_concrete(due):
        new = change(old) if due else stay(old)
    else:
        new = jax.lax.cond(due, change, stay, old)
    found = iter(new)
    pairs = [next(found) if is_block_sparse(leaf) else (None, jnp.asarray(True)) for leaf in leaves]
    keep = [stays[:, None, None] if stays.ndim else stays for _, stays in pairs]
    return [topology for topology, _ in pairs], jax.tree.unflatten(treedef, keep)


def _rewired_together(old: list[Topology], masks: list[Array]) -> list[tuple[Topology, Array]]:
    """`rewired` of each; matrices of one size in one call, since each costs XLA some twenty kernels to compile."""
    groups: dict[tuple, list[int]] = {}
    for i, (topology, mask) in enumerate(zip(old, masks, strict=True)):
        groups.setdefault((mask.shape, topology.capacity), []).append(i)
    found: list[Any] = [None] * len(old)
    for members in groups.values():
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *((old[i], masks[i]) for i in members))
        new = jax.vmap(rewired)(*stacked)
        for place, i in enumerate(members):
            found[i] = jax.tree.map(lambda leaf, place=place: leaf[place], new)
    return found


def _values(tree: Params) -> Params:
    """The floating part: the blocks' values in the places of the matrices."""
    return jax.tree.map(
        lambda leaf: leaf.data if is_block_sparse(leaf) else leaf, tree, is_leaf=is_block_sparse
    )


def _put(values: Params, keep: Any) -> Params:
    """`values` where kept, else zero, whatever was there."""
    return jax.tree.map(
        lambda value, mask: value if mask.ndim == 0 else jnp.where(mask, value, jnp.zeros((), value.dtype)),
        values,
        keep,
    )


def _land(update: Array, value: Array, mask: Array, hold: Array | None) -> Array:
    """As in `sparsify`: slots whose block goes or comes land on zero; where `hold` is true the others stay put."""
    if hold is not None:
        update = jnp.where(hold, jnp.zeros((), update.dtype), update)
    return update if mask.ndim == 0 else jnp.where(mask, update, -value)


def _updates(landed: Params, params: Params, topologies: list[Topology | None]) -> Params:
    """The updates as a tree like the parameters: integer leaves get differences, which are exact."""
    leaves, treedef = jax.tree.flatten(params, is_leaf=is_block_sparse)
    out: list[Array | BlockSparse] = []
    for leaf, update, topology in zip(leaves, jax.tree.leaves(landed), topologies, strict=True):
        if topology is None:
            out.append(update)
            continue
        difference = jax.tree.map(jnp.subtract, topology, leaf.topology)
        # More blocks than slots: nobody should train on a matrix that lost some.
        update = jnp.where(topology.overflow > 0, jnp.nan, update).astype(update.dtype)
        out.append(dataclasses.replace(leaf, data=update, topology=difference))
    return jax.tree.unflatten(treedef, out)


def _check_compressed(params: Any) -> None:
    leaves = jax.tree.leaves(params, is_leaf=is_block_sparse)
    if not any(map(is_block_sparse, leaves)):
        raise ParamsError(
            "train_compressed works on parameters with block-sparse kernels: params, state = "
            "sparsejax.kernels.start(tx, params); then tx.update(grads, state, params)."
        )


# As `SparseTransformation`: a pytree that is its pair of functions.
jax.tree_util.register_pytree_with_keys(
    CompressedTransformation,
    lambda tx: (
        ((jax.tree_util.GetAttrKey("init"), tx.init), (jax.tree_util.GetAttrKey("update"), tx.update)),
        (tx.times, tx.reads_gradient, tx.replaces_step, tx.recipe, tx.block, tx.prunable),
    ),
    lambda said, pair: _rebuilt(pair, said),
)


def _rebuilt(pair: tuple, said: tuple) -> CompressedTransformation:
    tx = CompressedTransformation(*pair, *said[:3])
    tx.recipe, tx.block, tx.prunable = said[3:]
    return tx
