"""From a sparse file to sparse compute: each kernel goes into its form as it is read, so one at a time is dense."""

import os
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from sparsejax.export.sparse_file import read_tensors
from sparsejax.kernels.convert import Choice, to_sparse
from sparsejax.kernels.cost_model import Point
from sparsejax.parametrizations.integer_grid import is_quantized
from sparsejax.params.default_filter import default_prunable
from sparsejax.typing import Params, Prunable


def load_sparse(
    path: str | os.PathLike[str],
    *,
    rows: int = 1,
    prefer: str = "bytes",
    values: str = "float",
    points: Sequence[Point] | None = None,
    prunable: Prunable | None = None,
) -> tuple[Params, dict[str, Choice]]:
    """Reads what `export.save` wrote, every kernel in the sparse form that pays most.

    Args:
      path: of the file.
      rows: as in `to_sparse`.
      prefer: as in `to_sparse`.
      values: "float", or "int8": the file's own integers and scales where it has a scale an output, else rounded
        anew.
      points: as in `to_sparse`.
      prunable: which leaves are kernels; the library's default filter when None.

    Returns:
      ``(params, choices)``: nested dicts by the parts of the paths, and what became of each kernel.

    Raises:
      FileError: a damaged file.
      KernelError: an unknown preference.

    Example:
      >>> import tempfile
      >>> from sparsejax import export
      >>> params = {"layer": {"kernel": jnp.zeros((256, 256)).at[:32, :32].set(1.0)}}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = export.save(f"{folder}/a", params)
      ...     sparse, choices = load_sparse(f"{folder}/a")
      >>> choices["layer/kernel"].form
      'blocks'
    """
    choose = prunable or default_prunable
    tree: dict[str, Any] = {}
    choices: dict[str, Choice] = {}
    for name, tensor in read_tensors(path, dequantized=False):
        leaf = tensor.dequantize() if is_quantized(tensor) else jnp.asarray(tensor)
        if choose(name, leaf):
            options = {"rows": rows, "prefer": prefer, "values": values, "points": points}
            found, choice = to_sparse({name: tensor}, prunable=lambda path, leaf: True, **options)
            leaf = found[name]
            choices |= choice
        *above, last = name.split("/")
        inside = tree
        for key in above:
            inside = inside.setdefault(key, {})
        inside[last] = leaf
    return tree, choices
