"""The methods that a study of sparse training compares, as changes of its base configuration."""

from collections.abc import Mapping
from typing import Any

from ml_collections import FieldReference

_ERK = "erdos_renyi_kernel"

#: Pairs (expected to be better, the other): static < SET < RigL ≤ GMP, and Erdős–Rényi-Kernel over uniform.
EXPECTED = (
    ("set", "static"),
    ("rigl", "set"),
    ("gmp_uniform", "rigl"),
    ("gmp_global", "rigl"),
    ("rigl", "rigl_uniform"),
)


def method_grid(
    steps: int | FieldReference,
    small: Mapping[float, Mapping[str, Any]],
    compute: Mapping[float, float] | None = None,
) -> dict[str, dict[str, Any]]:
    """Lists the methods of a study: the dense network first, then the sparse ones, then its dense rivals.

    Args:
      steps: of the base; one-shot pruning comes in the middle of them. As a reference,
        ``base.get_ref("steps")``, times that are made from them follow an override.
      small: sparsity to the sizes of a dense network with about as many parameters as the sparse ones keep.
      compute: sparsity to the share of the dense FLOPs that a sparse network takes, for the dense one that is
        trained for as many; 1 − sparsity when None, which holds where every layer is pruned.

    Returns:
      Name to ``changes``, and for methods of one sparsity the ``row`` and ``column`` they belong to.

    Example:
      >>> list(method_grid(100, {0.9: {"widths": (8,)}}))[-2:]
      ['small_dense_90', 'short_dense_90']
      >>> method_grid(100, {0.9: {"widths": (8,)}}, {0.9: 0.3})["short_dense_90"]["changes"]["steps"]
      30
    """
    grid = {
        "dense": {},
        "static": {"method": "static", "distribution": _ERK},
        "snip": {"method": "snip", "distribution": "global"},
        "set": {"method": "set", "distribution": _ERK},
        "rigl_uniform": {"method": "rigl"},
        "rigl": {"method": "rigl", "distribution": _ERK},
        "gmp_uniform": {"method": "gmp"},
        "gmp_global": {"method": "gmp", "distribution": "global"},
        "one_shot": {"method": "one_shot", "begin_step": steps // 2, "distribution": "global"},
        "ac_dc": {"method": "ac_dc", "distribution": "global"},
    }
    entries: dict[str, dict[str, Any]] = {name: {"changes": changes} for name, changes in grid.items()}
    for sparsity, sizes in small.items():
        of_one = {"column": sparsity}
        name = f"{100 * sparsity:.0f}"
        entries[f"small_dense_{name}"] = {**of_one, "row": "small_dense", "changes": {"model": dict(sizes)}}
        # The same network trained for as many FLOPs as a sparse one would take.
        share = compute[sparsity] if compute else 1 - sparsity
        few = {"steps": steps * round(1000 * share) // 1000}
        entries[f"short_dense_{name}"] = {**of_one, "row": "short_dense", "changes": few}
    return entries
