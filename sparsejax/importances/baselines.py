"""What importances are compared with: uniform width (the first units of every group stay), and chance."""

import zlib
from collections.abc import Mapping

import jax
import numpy as np

from sparsejax.errors import RandomKeyError
from sparsejax.importances.importance import Importance, Importances
from sparsejax.importances.pooling import on_host
from sparsejax.tracing.groups import Group
from sparsejax.typing import Array, Params


def uniform_width() -> Importance:
    """The first units are the most important: no unit is chosen, only widths are.

    ``I_i = −i``

    With ``across="uniform"`` this is the uniform-width baseline of AMC and NetAdapt at a budget of channels,
    parameters, FLOPs or latency; trained from new weights it is the small-dense baseline of RigL.

    Returns:
      The importance.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax import prune_structured
      >>> params = {"a": jnp.ones((4, 8)), "c": jnp.ones((8, 2))}
      >>> found = prune_structured(
      ...     lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((3, 4)),
      ...     importance=uniform_width(), flops_ratio=0.7)
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


def random(key: Array) -> Importance:
    """Uniform noise, one independent stream a group: the control of every study.

    ``I_i ~ U[0, 1)``

    Args:
      key: a jax random key.

    Returns:
      The importance.

    Raises:
      RandomKeyError: no key.
    """
    if not isinstance(key, jax.Array):
        raise RandomKeyError(f"Random importance needs a key, and {key!r} came: pass jax.random.key(seed).")

    def importance(params: Params, groups: Mapping[str, Group]) -> Importances:
        del params
        found = {}
        for name, group in groups.items():
            stream = jax.random.fold_in(key, np.uint32(zlib.crc32(name.encode())))
            shape = (group.size,) if group.layers is None else (group.layers, group.size)
            found[name] = jax.random.uniform(stream, shape)
        return on_host(found)

    return importance
