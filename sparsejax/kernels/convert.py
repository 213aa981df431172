"""From a pruned model to sparse compute in one call: each kernel in the form that is fastest, or smallest."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import KernelError, PatternError
from sparsejax.kernels.bitmap import pack_bitmap
from sparsejax.kernels.block_sparse import from_dense
from sparsejax.kernels.block_view import is_matrix, matrix_shape
from sparsejax.kernels.cost_model import Point, relative_time, shipped_points
from sparsejax.kernels.deltas import pack_deltas
from sparsejax.kernels.fan_in import pack_fan_in
from sparsejax.kernels.n_of_m import pack_n_m
from sparsejax.masks.mask_trees import apply_masks
from sparsejax.masks.prunable import Layer, prunable_layers
from sparsejax.parametrizations.integer_grid import QuantizedTensor, dequantize, is_quantized
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.kept_count import is_concrete
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.typing import Array, MaskTree, Params, Prunable

BLOCKS = (128, 64, 32)
PATTERNS = ((1, 4), (2, 4), (4, 8))
#: How far apart the weights of an N:M group may stand, beside inputs / m: side by side, in a lane of a TPU's registers.
STRIDES = (1, 128)


class Choice(NamedTuple):
    """What became of one kernel.

    Attributes:
      form: one of `cost_model.FORMS`.
      density: share of weights that the form computes with; 1 for dense.
      relative_time: estimated, beside the dense product.
      relative_bytes: beside the dense kernel.
    """

    form: str
    density: float
    relative_time: float
    relative_bytes: float


def to_sparse(
    params: Params,
    masks: MaskTree | None = None,
    *,
    rows: int = 1,
    prefer: str = "time",
    values: str = "float",
    points: Sequence[Point] | None = None,
    prunable: Prunable | None = None,
) -> tuple[Params, dict[str, Choice]]:
    """Puts each kernel of a pruned model into the sparse form that pays most; where none does it stays dense.

    `x @ w` multiplies by every form, and so does `interop.sparse_linear.SparseLinear`.

    Args:
      params: concrete parameters, of which some may be a `QuantizedTensor`, from `quantize` or `gptq`; convolutions
        and stacks of layers stay dense.
      masks: their masks; None where the zeros are in the parameters.
      rows: activations a call, for the estimate of the time: batch, or batch × positions.
      prefer: "time" (estimated) or "bytes".
      values: "float", or "int8" for the packed forms: a quantized parameter's own integers and scales where it has
        a scale an output and no zero points, else rounded here.
      points: measurements of your machine; those that ship are of one core of a CPU.
      prunable: which leaves are kernels; the library's default filter when None.

    Returns:
      ``(params, choices)``: `choices` by path of the kernel.

    Raises:
      KernelError: traced parameters, or an unknown preference.

    Example:
      >>> params = {"kernel": jnp.zeros((256, 256)).at[:32, :32].set(1.0)}
      >>> sparse, choices = to_sparse(params, prefer="bytes")
      >>> choices["kernel"].form, round(choices["kernel"].relative_bytes, 3)
      ('blocks', 0.016)
    """
    if prefer not in ("time", "bytes"):
        raise KernelError(f"prefer={prefer!r}: choose 'time' or 'bytes'.")
    require_numbers(KernelError, least=1, whole=True, rows=rows)
    if not all(map(is_concrete, jax.tree.leaves(params))):
        raise KernelError("to_sparse reads the zeros of the parameters: call it outside of jit.")
    integers = jax.tree.leaves(params, is_leaf=lambda leaf: is_quantized(leaf) or is_masked_node(leaf))
    params = dequantize(params)
    params = params if masks is None else apply_masks(params, masks)
    measured = shipped_points() if points is None else points
    paths, leaves, treedef = flatten_with_paths(params)
    choices = {}
    for layer in prunable_layers(params, prunable=prunable):
        if not is_matrix(layer):
            choices[paths[layer.index]] = Choice("dense", 1.0, 1.0, 1.0)
            continue
        dense = jnp.reshape(leaves[layer.index], matrix_shape(layer))
        found = _candidates(dense, _matrix_of(integers[layer.index], dense, layer), measured, rows, values)
        form, choice = min(found, key=lambda pair: getattr(pair[1], f"relative_{prefer}"))
        choices[paths[layer.index]] = choice
        if choice.form != "dense":
            leaves[layer.index] = form
    return jax.tree.unflatten(treedef, leaves), choices


def _matrix_of(leaf: Any, dense: Array, layer: Layer) -> Array | QuantizedTensor:
    """The integers of a matrix whose scales belong to its outputs, else the matrix itself."""
    if not is_quantized(leaf) or leaf.zero_point is not None:
        return dense
    inputs, outputs = (tuple(axes) for axes in (layer.axes.input, layer.axes.output))
    apart = any(leaf.scale.shape[axis] != 1 for axis in inputs)
    if apart or any(leaf.scale.shape[axis] not in (1, leaf.shape[axis]) for axis in outputs):
        return dense
    shape = tuple(1 if axis in inputs else size for axis, size in enumerate(leaf.shape))
    scale = jnp.broadcast_to(leaf.scale, shape).reshape(1, dense.shape[1])
    values = jnp.where(dense != 0, leaf.values.reshape(dense.shape), 0)  # less what the masks took
    return QuantizedTensor(values, scale, None, leaf.bits, leaf.dtype)


def _candidates(
    dense: Array, matrix: Array | QuantizedTensor, points: Sequence[Point], rows: int, values: str
) -> list[tuple[Any, Choice]]:
    """All forms that can hold the matrix, with what each would cost; dense first, so that it wins a tie."""
    found: list[tuple[Any, Choice]] = [(dense, Choice("dense", 1.0, 1.0, 1.0))]

    def add(form: str, density: float, matrix: Any) -> None:
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(matrix)) / dense.nbytes
        found.append((matrix, Choice(form, density, relative_time(points, form, rows, density), size)))

    host = np.asarray(dense) != 0
    for block in BLOCKS:
        if dense.shape[0] % block or dense.shape[1] % block:
            continue
        grid = dense.shape[0] // block, dense.shape[1] // block
        live = host.reshape(grid[0], block, grid[1], block).any((1, 3))
        if 2 * live.sum() <= live.size:  # denser ones never pay
            add("blocks", max(live.sum(), 1) / live.size, from_dense(dense, block=(block, block)))
            balanced = pack_fan_in(dense, block=(block, block))
            add("fan_in", balanced.data.size / dense.size, balanced)
    for n, m in PATTERNS:
        for stride in dict.fromkeys((max(dense.shape[0] // m, 1), *STRIDES)):
            try:
                add("n_m", n / m, pack_n_m(matrix, n, m, stride=stride, values=values))
            except PatternError:
                continue
    if host.mean() < 0.9:
        add("bitmap", float(host.mean()), pack_bitmap(matrix, values=values))
        add("deltas", float(host.mean()), pack_deltas(matrix, values=values))
    return found
