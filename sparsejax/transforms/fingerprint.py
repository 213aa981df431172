"""A short text that is equal for functions which do the same: their code and what they close over, hashed."""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

_HASH_UP_TO = 1 << 20  # bytes; of larger arrays the shape and the dtype count


def fingerprint(value: Any) -> str | None:
    """What tells functions, and values made of them, apart beyond one process.

    Args:
      value: functions, NamedTuples of them, numbers, arrays.

    Returns:
      Twelve hexadecimal digits, equal for equal code over equal values; None where a tracer is among those, which no
      other process could have.

    Example:
      >>> def scaled(by):
      ...     return lambda x: by * x
      >>> fingerprint(scaled(2)) == fingerprint(scaled(2)), fingerprint(scaled(2)) == fingerprint(scaled(3))
      (True, False)
    """
    digest = hashlib.sha256()
    try:
        for part in _parts(value, frozenset()):
            digest.update(part.encode() + b"\0")
    except _TracedError:
        return None
    return digest.hexdigest()[:12]


class _TracedError(Exception):
    """A tracer was met."""


def _parts(value: Any, above: frozenset[int]) -> Iterator[str]:
    """The value as texts, from the outside in; what refers back to itself ends there."""
    if id(value) in above:
        return
    above = above | {id(value)}
    if isinstance(value, jax.core.Tracer):
        raise _TracedError
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        yield from _array_parts(value)
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield repr(value)
    elif isinstance(value, types.CodeType):
        yield value.co_code.hex()
        yield repr(value.co_names)
        for constant in value.co_consts:
            yield from _parts(constant, above)
    else:
        yield f"{type(value).__module__}.{type(value).__qualname__}"
        for inner in _inside(value):
            yield from _parts(inner, above)


def _array_parts(value: Any) -> Iterator[str]:
    yield f"{value.dtype}{value.shape}"
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if value.nbytes <= _HASH_UP_TO:
        yield np.asarray(value).tobytes().hex()


def _inside(value: Any) -> Iterator[Any]:
    """What a value is made of; of other libraries' objects the type alone counts."""
    if isinstance(value, types.FunctionType):
        yield value.__module__, value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__
        for cell in value.__closure__ or ():
            yield _content(cell)
    elif isinstance(value, functools.partial):
        yield value.func, value.args, value.keywords
    elif isinstance(value, Mapping):
        yield from ((key, value[key]) for key in sorted(value, key=repr))
    elif isinstance(value, tuple | list):
        yield from value
    elif isinstance(value, set | frozenset):
        yield from sorted(value, key=repr)
    elif isinstance(value, type):
        yield value.__module__, value.__qualname__
    elif dataclasses.is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    elif hasattr(value, "__wrapped__"):
        yield value.__wrapped__


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
