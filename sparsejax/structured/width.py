"""Uniform width: every group keeps its first units, the baseline of a model that was small from the start."""

from collections.abc import Mapping

import numpy as np

from sparsejax.structured.importance import Importance, Importances
from sparsejax.tracing import Group
from sparsejax.typing import Params


def unit_position() -> Importance:
    """The first units are the most important: no unit is chosen, only widths are.

    ``I_i = −i``

    With ``across="uniform"`` this is the uniform-width baseline of AMC and NetAdapt at a budget of channels,
    parameters, FLOPs or latency; trained from new weights it is the small-dense baseline of RigL.

    Returns:
      The importance.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.structured import prune_structured
      >>> params = {"a": jnp.ones((4, 8)), "c": jnp.ones((8, 2))}
      >>> found = prune_structured(
      ...     lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((3, 4)),
      ...     importance=unit_position(), flops_ratio=0.7)
      >>> found.keep["a:1"].tolist()
      [True, True, False, False, False, False, False, False]

    Source: He et al., "AMC", arXiv 1802.03494, table 3 ("uniform"); Howard et al., "MobileNets",
    arXiv 1704.04861, section 3.3, the width multiplier.
    """

    def importance(params: Params, groups: Mapping[str, Group]) -> Importances:
        del params
        ramp = {name: -np.arange(group.size, dtype=np.float64) for name, group in groups.items()}
        return {n: np.tile(r, (groups[n].layers, 1)) if groups[n].layers else r for n, r in ramp.items()}

    return importance
