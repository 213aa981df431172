"""The checks of a configuration's fields, and the words in which they refuse."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.errors import ConfigError


def require(holds: bool, field: str, value: Any, text: str) -> None:
    """Refuses a value.

    Args:
      holds: whether the value will do.
      field: its field, below ``config``.
      value: what came.
      text: what to give instead.

    Raises:
      ConfigError: `holds` is False.

    Example:
      >>> require(True, "steps", 10, "a whole number of at least 1")
    """
    if not holds:
        raise ConfigError(f"config.{field} is {value!r}: give {text}.")


def choice(value: Any, options: Iterable[str], field: str) -> None:
    """Refuses a value that is none of the options, and says which one may have been meant.

    Args:
      value: what came.
      options: what may be given.
      field: the field, below ``config``.

    Raises:
      ConfigError: `value` is not among `options`.

    Example:
      >>> choice("sgd", ("adamw", "sgd"), "optimizer")
    """
    known = list(options)
    if value not in known:
        guess = did_you_mean(str(value), known)
        raise ConfigError(f"config.{field} is {value!r}{guess}: choose one of {', '.join(known)}.")


def check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuses fields that do not exist, and fields that are missing.

    Args:
      given: the names of the fields that came; a mapping will do.
      known: the names that there are, all needed.
      where: what holds the fields, such as ``"config.model"``.

    Raises:
      ConfigError: the names differ.

    Example:
      >>> check_names({"steps": 10}, {"steps": 5000}, "config")
    """
    names, given = list(known), list(given)
    for name in given:
        if name not in names:
            guess = did_you_mean(name, names)
            raise ConfigError(f"{where}.{name} is no field{guess}. The fields are {', '.join(names)}.")
    if missing := [name for name in names if name not in given]:
        raise ConfigError(
            f"{where} lacks {', '.join(missing)}: start from experiments.config.fields.default_config()."
        )


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Gives ``" (did you mean 'x'?)"`` for the closest option, or nothing where none is close.

    Example:
      >>> did_you_mean("rigle", ["set", "rigl"])
      " (did you mean 'rigl'?)"
    """
    close = difflib.get_close_matches(name, list(options), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def is_whole(value: Any, least: int) -> bool:
    """Tells whether `value` is an int (no bool) of at least `least`.

    Example:
      >>> is_whole(3, 1), is_whole(True, 1), is_whole(2.0, 1)
      (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_sizes(value: Any) -> bool:
    """Tells whether `value` is a tuple or list of ints of at least 1.

    Example:
      >>> is_sizes((300, 100)), is_sizes((300, 0)), is_sizes(300)
      (True, False, False)
    """
    return not isinstance(value, str | Mapping) and isinstance(value, Iterable) and all(
        is_whole(size, 1) for size in value
    )  # fmt: skip
