"""The order in which units go: one sequence over all groups, in which every budget is a place to stop."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from sparsejax.errors import MaskError, SparsityError
from sparsejax.importances.importance import Importances
from sparsejax.structured.choose.group_bounds import Bounds
from sparsejax.tracing.groups import Group

ACROSS = ("uniform", "global")


def check_across(across: str) -> None:
    """Refuses what is no order.

    Args:
      across: of `ACROSS`.

    Raises:
      SparsityError: it is none.
    """
    if not isinstance(across, str) or across not in ACROSS:
        raise SparsityError(f"across={across!r}: choose one of {', '.join(ACROSS)}.")


class Order:
    """Units in the order in which they go; those of one group from the least important up.

    Attributes:
      names: the group of each unit that goes, beyond what every group loses at least.
    """

    def __init__(self, importances: Importances, bounds: Mapping[str, Bounds], across: str) -> None:
        check_across(across)
        self._bounds = bounds
        keys, names = [], []
        for name, bound in bounds.items():
            removed = np.arange(bound.least, bound.most)
            # Layers that share one shape lose their unit of the same rank together.
            ranked = np.sort(np.atleast_2d(importances[name]), -1).mean(0)
            keys.append((removed + 1) / bound.size if across == "uniform" else ranked[removed])
            names += [name] * len(removed)
        order = np.argsort(np.concatenate(keys), kind="stable") if keys else []
        self.names = [names[i] for i in order]

    def __len__(self) -> int:
        return len(self.names)

    def whole(self) -> dict[str, int]:
        """All units of each group."""
        return {name: bound.size for name, bound in self._bounds.items()}

    def counts(self, steps: int) -> dict[str, int]:
        """Units kept of each group after `steps` units have gone, rounded to allowed widths."""
        gone = Counter(self.names[:steps])
        return {name: bound.kept(bound.least + gone[name]) for name, bound in self._bounds.items()}


def keep_best(importances: Importances, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Keeps the most important units of each group; equal ones by the lowest index.

    Args:
      importances: name -> (size,) or (layers, size).
      counts: name -> units kept, of each layer.

    Returns:
      name -> bool of the importance's shape.

    Example:
      >>> keep_best({"a:1": np.array([1.0, 3.0, 3.0])}, {"a:1": 1})["a:1"].tolist()
      [False, True, False]
    """
    keep = {}
    for name, count in counts.items():
        value = np.asarray(importances[name])
        chosen = np.argsort(-value, axis=-1, kind="stable")[..., : int(count)]
        mask = np.zeros(value.shape, bool)
        np.put_along_axis(mask, chosen, True, -1)
        keep[name] = mask
    return keep


def check_shapes(importances: Importances, groups: Mapping[str, Group]) -> None:
    """Refuses importances that do not fit their groups.

    Args:
      importances: name -> (size,) or (layers, size).
      groups: the groups.

    Raises:
      MaskError: a group has none, or one of another shape.
    """
    for name, group in groups.items():
        shape = np.shape(importances[name]) if name in importances else None
        layered = group.layers is not None and shape == (group.layers, group.size)
        if not (layered or shape == (group.size,)):
            wanted = f"({group.size},)" + (f" or ({group.layers}, {group.size})" if group.layers else "")
            raise MaskError(
                f"The importance of the group {name!r} has shape {shape}; it needs {wanted}, one value a unit."
            )
