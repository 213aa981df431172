"""The grammar's types: the few shapes of function that every method is written in."""

from collections.abc import Callable
from typing import Any

from jax import Array
from jax.typing import ArrayLike

#: Any pytree of arrays shaped like the model's parameters (linen dict, nnx State, tuple, ...).
Params = Any
#: A pytree like `Params`; each leaf a bool array that broadcasts to its parameter, True = kept;
#: a 0-d True marks a leaf that is not prunable.
MaskTree = Any
#: A pytree like `Params` of float32 scores, higher = kept longer.
Scores = Any
#: ``prunable(path, leaf) -> bool``; the path is joined by ``/``.
Prunable = Callable[[str, Any], bool]
#: ``schedule(step) -> value``; optax's own meaning.
Schedule = Callable[[ArrayLike], ArrayLike]

__all__ = ["Array", "ArrayLike", "MaskTree", "Params", "Prunable", "Schedule", "Scores"]
