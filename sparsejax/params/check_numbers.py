"""Refusing at once what is no number of the kind that an argument takes: steps, counts, shares, weights."""

import math
from typing import Any

import jax
import numpy as np

from sparsejax.errors import ParamsError, ScheduleError, SparsejaxError
from sparsejax.params.check_values import describe_value

#: The last step that a counter of an optimizer's state can hold.
LAST_STEP = 2**31 - 1


def require_numbers(
    error: type[SparsejaxError],
    *,
    least: float = 0,
    most: float = math.inf,
    above: bool = False,
    whole: bool = False,
    **numbers: Any,
) -> None:
    """Refuses what is no finite real number from a least one on, up to a most.

    Args:
      error: the type of the error.
      least: the least number.
      most: the greatest.
      above: whether it must be above the least.
      whole: whether it must be a whole number.
      **numbers: by the argument's name.

    Raises:
      SparsejaxError: of the type `error`.

    Example:
      >>> require_numbers(ParamsError, damping=0.01, tolerance=np.float32(1e-6))
    """
    for name, value in numbers.items():
        kind = np.asarray(value).dtype.kind if np.ndim(value) == 0 else ""
        fits = kind and kind in ("iu" if whole else "iuf") and np.isfinite(value)
        if not fits or not least <= value <= most or (above and value == least):
            bounds = [f"{'above' if above else 'of at least'} {least:g}"] if least > -math.inf else []
            bounds += [f"of at most {most:.10g}"] if most < math.inf else []
            what = " ".join([f"{'whole' if whole else 'finite'} number", " and ".join(bounds)]).rstrip()
            came = value if kind and kind in "iuf" else describe_value(value)
            raise error(f"{name} is {came}; give a {what}.")


def require_steps(**steps: Any) -> None:
    """Refuses numbers of steps that are no whole numbers, negative, or beyond what a state's counter holds.

    Args:
      **steps: by the argument's name.

    Raises:
      ScheduleError: one is.

    Example:
      >>> require_steps(begin=0, end=100)
    """
    require_numbers(ScheduleError, most=LAST_STEP, whole=True, **steps)


def require_weight(value: Any, name: str = "penalty_weight") -> None:
    """Refuses a weight of a penalty that is neither a number from 0 on nor a schedule; a traced one is let through.

    Args:
      value: what came.
      name: the argument.

    Raises:
      ParamsError: it is none.

    Example:
      >>> require_weight(1e-6)
    """
    if not callable(value) and not isinstance(value, jax.core.Tracer):
        require_numbers(ParamsError, **{name: value})
