"""What a setting is, in words that another run of the same program says too: a workdir knows its settings by them."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from sparsejax.post_training.sequential.store import fingerprint


def name_of(value: Any, around: tuple[Any, ...] = ()) -> str:
    """Says what a setting is: functions by their name, and by all that two of one name may differ in.

    Args:
      value: a solver, a function, an array, a number, or a container of such.
      around: what holds the value, for what holds itself.

    Returns:
      The words. Of a function of this library its name; of others what they do too, so that an edited one is another.

    Example:
      >>> name_of([0.5, len])
      "list ['0.5', 'builtins.len']"
    """
    if any(value is other for other in around):  # a function that calls itself, an object that holds itself
        return "itself"
    say = functools.partial(name_of, around=(*around, value))
    value = inspect.unwrap(value)
    if isinstance(value, functools.partial):
        return f"{say(value.func)} {list(map(say, value.args))} {_named(value.keywords, say)}"
    if isinstance(value, jax.Array | np.ndarray):
        return fingerprint(value)
    if isinstance(value, types.MethodType):
        return f"{say(value.__func__)} of {say(value.__self__)}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} {list(map(say, value))}"
    if isinstance(value, set | frozenset):  # of texts it has another order in every process
        return f"set {sorted(map(say, value))}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} {_named(value, say)}"
    code = getattr(value, "__code__", None)
    if code is not None:
        return _function_name(value, code, say)
    # Of other things that have a text of their own, a logger say, it is left to that: what they hold may change.
    silent = callable(value) or type(value).__repr__ is object.__repr__
    if silent and not isinstance(value, type) and hasattr(value, "__dict__"):
        done = say(type(value).__call__) if callable(value) else ""
        return f"{_full_name(type(value))} {done} {_named(vars(value), say)}"
    return _full_name(value) if callable(value) else repr(value)


def _function_name(function: Any, code: types.CodeType, say: Callable[[Any], str]) -> str:
    name = _full_name(function)
    if "<" not in name and name.startswith("sparsejax."):
        return name
    # Lambdas and functions made inside others share their names, and one's own are edited between two runs: what
    # they do and what they hold tells them apart.
    held = [say(cell.cell_contents) for cell in function.__closure__ or ()]
    defaults = [say(function.__defaults__), _named(function.__kwdefaults__ or {}, say)]
    return f"{name} {_said(code)} {defaults} {held}"


def _named(values: Mapping[Any, Any], say: Callable[[Any], str]) -> str:
    return str(sorted((str(key), say(value)) for key, value in values.items()))


def _full_name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}"


def _said(code: types.CodeType) -> str:
    """What a function does, those inside it included."""
    return f"{code.co_code.hex()} {code.co_names} {list(map(_constant, code.co_consts))}"


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _said(value)
    if isinstance(value, tuple):
        return str(list(map(_constant, value)))
    return str(sorted(map(_constant, value))) if isinstance(value, frozenset) else repr(value)
