"""Tracing a function on a calibration batch; one that does not fit is told of."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sparsejax.errors import CalibrationError, SparsejaxError
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.typing import Params


def trace_batch(fn: Callable[..., Any], params: Params, inputs: Any) -> jaxprs.Traced:
    """Traces ``fn(params, *inputs)``.

    Args:
      fn: the function.
      params: its parameters.
      inputs: one batch.

    Returns:
      What was traced.

    Raises:
      CalibrationError: a batch that the function does not take.
      TracingError: as the tracer.
    """
    try:
        return jaxprs.trace(fn, params, inputs)
    except (TypeError, ValueError) as error:
        if isinstance(error, jax.errors.JAXTypeError | SparsejaxError):
            raise
        shapes = jax.tree.map(np.shape, inputs)
        raise CalibrationError(f"The function does not take a batch of shapes {shapes}: {error}") from error
