"""Measured latency of a jitted function."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sparsejax.errors import ParamsError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.paths import require_arrays
from sparsejax.tracing.jaxpr import as_tuple

#: ``measure(fn, params, inputs) -> seconds`` of one call.
Measure = Callable[[Callable[..., Any], Any, tuple[Any, ...]], float]


def measure_latency(
    fn: Callable[..., Any],
    params: Any,
    inputs: Any,
    *,
    calls: int = 30,
    budget_seconds: float = 1.0,
) -> float:
    """Times one call of a jitted function: the median over calls, after one that compiles and two more.

    Args:
      fn: any function ``fn(params, *inputs)``; it is jitted here.
      params: its parameters.
      inputs: one further argument, or a tuple of all of them; arrays.
      calls: calls that are timed, at most.
      budget_seconds: no further call begins after so many seconds; three are made in any case.

    Returns:
      Seconds.

    Raises:
      ParamsError: a parameter or an input is a shape without numbers, or numbers of calls and seconds that are
        none.
    """
    require_numbers(ParamsError, least=1, whole=True, calls=calls)
    require_numbers(ParamsError, budget_seconds=budget_seconds)
    require_arrays(params, "A latency is measured on the parameters")
    require_arrays(inputs, "A latency is measured on the inputs")
    jitted, arguments = jax.jit(fn), as_tuple(inputs)
    for _ in range(3):
        jax.block_until_ready(jitted(params, *arguments))
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or (len(times) < calls and time.perf_counter() - begin < budget_seconds):
        start = time.perf_counter()
        jax.block_until_ready(jitted(params, *arguments))
        times.append(time.perf_counter() - start)
    return float(np.median(times))
