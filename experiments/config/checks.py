"""The checks of a configuration's fields, and the words in which they refuse."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from experiments.errors import ConfigError


class Check(NamedTuple):
    """What a field may be.

    Attributes:
      text: that in words, after "give"; `--help` says it too.
      holds: ``value -> bool``.
      options: the names that there are, so that a near miss finds its neighbour.
    """

    text: str
    holds: Callable[[Any], bool]
    options: tuple[str, ...] = ()


def check_value(field: str, value: Any, check: Check) -> None:
    """Refuses a value that its check does not hold for.

    Args:
      field: its name, below ``config``.
      value: what came.
      check: of the field.

    Raises:
      ConfigError: it does not hold.

    Example:
      >>> check_value("steps", 10, whole(1))
    """
    if check.options and isinstance(value, str) and not check.holds(value):
        choice(value, check.options, field)
    require(check.holds(value), field, value, check.text)


def number(text: str, holds: Callable[[Any], bool]) -> Check:
    """A finite number for which something holds.

    Example:
      >>> number("a number above 0", lambda x: x > 0).holds(float("nan"))
      False
    """
    return Check(text, lambda x: is_number(x) and bool(holds(x)))


def whole(least: int) -> Check:
    """A whole number from `least`.

    Example:
      >>> whole(1).holds(1), whole(1).holds(0), whole(1).holds(1.0)
      (True, False, False)
    """
    return Check(f"a whole number of at least {least}", lambda n: is_whole(n, least))


def one_of(options: Iterable[str], *, or_function: bool = False) -> Check:
    """A name from a table, or where a function of the user's may stand instead, ``"module:function"``.

    Example:
      >>> one_of(("adamw", "sgd")).holds("sgd"), one_of((), or_function=True).holds("mine:rule")
      (True, True)
    """
    names = tuple(options)
    known = ", ".join(names)
    return Check(
        f"one of {known}" + (", or 'module:function'" if or_function else ""),
        lambda value: value in names or (or_function and isinstance(value, str) and ":" in value),
        names,
    )


def text(what: str = "a text") -> Check:
    """A text.

    Example:
      >>> text().holds("train"), text().holds(3)
      (True, False)
    """
    return Check(what, lambda value: isinstance(value, str))


def flag() -> Check:
    """True or False.

    Example:
      >>> flag().holds(True), flag().holds("yes")
      (True, False)
    """
    return Check("True or False", lambda value: isinstance(value, bool))


def several(what: str, each: Callable[[Any], bool]) -> Check:
    """A tuple or a list; it may be empty.

    Example:
      >>> several("path patterns", lambda x: isinstance(x, str)).holds("head/*")
      False
    """
    return Check(what, lambda values: isinstance(values, tuple | list) and all(map(each, values)))


def grid(each: Check) -> Check:
    """Several numbers, of which each tells a member of a population from the others.

    Example:
      >>> grid(whole(1)).holds((1, 2)), grid(whole(1)).holds((1, 1))
      (True, False)
    """

    def holds(values: Any) -> bool:
        if not isinstance(values, tuple | list) or not all(map(each.holds, values)):
            return False
        return len({f"{x:g}" for x in values}) == len(values)  # as the members' directories are named

    return Check(
        f"several numbers, such as '(0.9,0.95)', each once (in 6 digits) and {each.text}; or ()", holds
    )


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


def check_kind(given: Iterable[str], needed: str, command: str, folder: str = "") -> None:
    """Refuses a configuration that was made for another command.

    Args:
      given: the names of its fields; a mapping will do.
      needed: a field that every configuration of the command has.
      command: such as ``"search"``.
      folder: of its configurations; the command's name where empty.

    Raises:
      ConfigError: the field is not there.

    Example:
      >>> check_kind({"base": {}}, "base", "search")
    """
    if needed not in given:
        raise ConfigError(
            f"This configuration has no field {needed!r}, so it is not one of experiments.{command}: those are in "
            f"configs/{folder or command}."
        )


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


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
