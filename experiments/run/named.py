"""Functions of the user's that a configuration names: ``"package.module:function"``, called without arguments."""

import importlib
from typing import Any

from experiments.errors import ConfigError
from sparsejax.distributions import Distribution
from sparsejax.patterns import Pattern
from sparsejax.scores import Score
from sparsejax.transforms.mask_rule import MaskRule

#: The fields that may name a function, and the type of what it returns.
RETURNS: dict[str, type] = {
    "score": Score,
    "pattern": Pattern,
    "distribution": Distribution,
    "rule": MaskRule,
}


def load_named(field: str, place: str) -> Any:
    """Imports a function, calls it, and checks what it returns.

    Args:
      field: a key of `RETURNS`.
      place: ``"module:function"``, where the module is one that Python can import from here: installed, or
        below the current directory or ``PYTHONPATH``.

    Returns:
      What the function returns.

    Raises:
      ConfigError: no such text, module or function, a function that fails without arguments, or another type.

    Example:
      >>> load_named("score", "sparsejax.scores:lamp")._fields
      ('init', 'update', 'value', 'reads_gradient')
    """
    module_name, _, name = place.partition(":")
    if not module_name or not name:
        raise _error(field, place, "give 'package.module:function', such as 'sparsejax.scores:lamp'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        raise _error(
            field, place, f"there is no module {missing!r}: install it, or add its folder to PYTHONPATH"
        ) from error
    except Exception as error:  # whatever a user's module does on the way
        raise _error(
            field, place, f"{module_name!r} cannot be imported ({type(error).__name__}: {error})"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = ", ".join(n for n in dir(module) if callable(getattr(module, n)) and not n.startswith("_"))
        raise _error(field, place, f"{module_name!r} has no function {name!r}; it has {known or 'none'}")
    try:
        value = function()
    except Exception as error:
        raise _error(
            field,
            place,
            f"it was called without arguments and failed ({type(error).__name__}: {error}): name a function "
            "that needs none",
        ) from error
    if isinstance(value, type) or not isinstance(value, RETURNS[field]):
        wanted = RETURNS[field]
        raise _error(
            field,
            place,
            f"it returns {type(value).__name__}, not a {wanted.__module__.split('.')[0]} {wanted.__name__}",
        )
    return value


def _error(field: str, place: str, text: str) -> ConfigError:
    return ConfigError(f"config.{field} is {place!r}: {text}.")
