"""The one line that says, at a process's first `init`, what share of the parameters is prunable."""

import logging
import math
import sys
from collections.abc import Callable

import numpy as np

from sparsejax.masks.mask_trees import is_prunable_mask
from sparsejax.params.partial_trees import spread
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.typing import MaskTree, Params

_LOGGER = logging.getLogger("sparsejax")
_SAID: list[bool] = []


def prunable_share(masks: MaskTree, params: Params) -> str:
    """What share of the parameters is prunable, in one line.

    Args:
      masks: a mask tree, or shapes like one.
      params: the parameters, or shapes like them.

    Returns:
      The line.

    Example:
      >>> import jax.numpy as jnp
      >>> w, b = jnp.ones((3, 4)), jnp.ones(4)
      >>> prunable_share({"w": w > 0, "b": jnp.asarray(True)}, {"w": w, "b": b})
      '75.0 % of 16 parameters are prunable; summarize names the others'
    """
    leaves = zip(spread(masks, params), flatten_with_paths(params)[1], strict=True)
    sizes = [
        (is_prunable_mask(mask), math.prod(np.shape(leaf)))
        for mask, leaf in leaves
        if not is_masked_node(leaf)
    ]
    total = sum(size for _, size in sizes)
    chosen = [size for prunable, size in sizes if prunable]
    percent = 100 * sum(chosen) / max(total, 1)
    return f"{percent:.1f} % of {total:,} parameters are prunable; summarize names the others"


def announce_once(share: Callable[[], str]) -> None:
    """Says the line, at a process's first call: to the logger ``sparsejax`` at INFO, or to standard error where logging
    was not set up.

    Args:
      share: makes the line; called if it is said.
    """
    if _SAID:
        return
    _SAID.append(True)
    if _LOGGER.hasHandlers():
        if _LOGGER.isEnabledFor(logging.INFO):
            _LOGGER.info(share())
    elif _LOGGER.level <= logging.INFO:
        print(f"sparsejax: {share()}", file=sys.stderr)
