"""The type of an importance: one number a unit, higher = kept longer; and how groups are made comparable."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sparsejax.errors import ScoreError
from sparsejax.params.check_values import require_arguments, require_kind
from sparsejax.tracing.groups import Group
from sparsejax.typing import Params

#: ``importance(params, groups) -> name -> float64 (size,) or (layers, size)``, higher = kept longer.
Importances = dict[str, np.ndarray]


Importance = Callable[[Params, Mapping[str, Group]], Importances]


def unit_importances(importance: Importance, params: Params, groups: Mapping[str, Group]) -> Importances:
    """Asks an importance for its numbers, and refuses what is none before it fails in its own words.

    Args:
      importance: what a user gave.
      params: the parameters.
      groups: the groups to rank.

    Returns:
      name -> (size,) or (layers, size).

    Raises:
      ScoreError: it is no function of ``(params, groups)``, such as a factory that was not called, or gives no
        mapping.
    """
    wanted = "(params, groups) -> {name: one number a unit}, such as importances.l2()"
    require_arguments(importance, (params, groups), "importance", wanted, ScoreError)
    found = importance(params, groups)
    require_kind(found, Mapping, "what the importance gives", "{'a:1': np.ones(8)}", ScoreError)
    return dict(found)


def normalized(units: Importances) -> Importances:
    """Divides each group's importance by its mean magnitude, layer by layer, so that groups compare.

    Args:
      units: name -> (size,) or (layers, size).

    Returns:
      The same, with mean magnitude 1; all zero where it was.

    Raises:
      ScoreError: NaN, or an infinite value, in a group, which is named.

    Example:
      >>> normalized({"a:1": np.array([1.0, 3.0])})["a:1"].tolist()
      [0.5, 1.5]
    """
    check_importances(units)
    found = {}
    for name, value in units.items():
        mean = np.abs(value).mean(-1, keepdims=True)
        found[name] = value / np.where(mean > 0, mean, 1.0)
    return found


def check_importances(units: Mapping[str, Any]) -> None:
    """Refuses importances that cannot be ranked.

    Args:
      units: name -> (size,) or (layers, size).

    Raises:
      ScoreError: NaN, or an infinite value, in a group, which is named.
    """
    for name, value in units.items():
        bad = int((~np.isfinite(np.asarray(value, np.float64))).sum())
        if bad:
            raise ScoreError(
                f"The importance of the group {name!r} {np.shape(value)} holds {bad} values that are NaN or "
                "infinite and cannot be ranked. Look for them in the parameters, gradients or activations."
            )
