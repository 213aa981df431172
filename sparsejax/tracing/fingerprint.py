"""A hash of a jaxpr that comes out alike in every process: two functions of one hash compute alike."""

import dataclasses
import enum
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.extend import core

# Names of functions, and what JAX notes for its own messages.
_LEFT_OUT = ("name", "debug_info")


def fingerprint(closed: core.ClosedJaxpr) -> str:
    """Hashes the equations of a jaxpr: primitives, what goes where, shapes, types and literal numbers.

    Arrays that the function closes over count by shape and type only, functions inside (custom derivatives,
    sharding rules) by their kind.

    Args:
      closed: the jaxpr.

    Returns:
      64 hexadecimal digits.

    Example:
      >>> import jax
      >>> one, same, other = (jax.make_jaxpr(f)(1.0) for f in (lambda x: x + 2, lambda y: y + 2, lambda x: x + 3))
      >>> fingerprint(one) == fingerprint(same), fingerprint(one) == fingerprint(other)
      (True, False)
    """
    return hashlib.sha256(_jaxpr(closed).encode()).hexdigest()


def _jaxpr(jaxpr: Any) -> str:
    opened = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    numbers: dict[Any, int] = {}

    def define(variables: Any) -> str:
        return " ".join(f"{numbers.setdefault(v, len(numbers))}:{v.aval.str_short()}" for v in variables)

    def read(atom: Any) -> str:
        return _value(atom.val) if isinstance(atom, core.Literal) else str(numbers[atom])

    lines = [define(opened.constvars), define(opened.invars)]
    for eqn in opened.eqns:
        operands = " ".join(map(read, eqn.invars))
        lines.append(f"{eqn.primitive.name} {_value(eqn.params)} {operands} -> {define(eqn.outvars)}")
    lines.append(" ".join(map(read, opened.outvars)))
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, core.Jaxpr | core.ClosedJaxpr):
        return f"{{{_jaxpr(value)}}}"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, enum.Enum):
        return str(value)
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        array = np.asarray(value)
        return f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"
    if isinstance(value, np.dtype):
        return str(value)
    if isinstance(value, Mapping):
        return f"({' '.join(f'{key}={_value(value[key])}' for key in sorted(value) if key not in _LEFT_OUT)})"
    if isinstance(value, tuple | list):
        return f"({' '.join(map(_value, value))})"
    if isinstance(value, frozenset | set):
        return f"({' '.join(sorted(map(_value, value)))})"
    if dataclasses.is_dataclass(value) and not callable(value):
        fields = (getattr(value, field.name) for field in dataclasses.fields(value))
        return f"({' '.join(map(_value, fields))})"
    return type(value).__name__
