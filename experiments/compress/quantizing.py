"""A network's weights in few bits, as a stage asks for it: to nearest, or by GPTQ on training batches."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from sparsejax import linear_ops, post_training
from sparsejax.typing import MaskTree, Params

#: How weights are rounded.
QUANTIZERS = ("gptq", "nearest")


def quantize_params(
    fn: Callable[[Params, Any], jax.Array],
    params: Params,
    inputs: Sequence[Any],
    *,
    bits: int,
    group_size: int = 0,
    quantizer: str = "gptq",
    masks: MaskTree | None = None,
) -> Params:
    """Quantizes every parameter that the function multiplies inputs by.

    Args:
      fn: ``fn(params, inputs) -> logits``.
      params: its parameters.
      inputs: batches of training data, which GPTQ looks at.
      bits: 2 to 8.
      group_size: inputs that share a scale; 0: all of an output's.
      quantizer: of `QUANTIZERS`.
      masks: of the parameters, kept bit for bit.

    Returns:
      The parameters, with `QuantizedTensor`s.

    Raises:
      QuantizationError: groups that do not divide a layer's inputs, or weights that are not finite.

    Example:
      >>> params = {"w": jax.numpy.ones((2, 3)), "b": jax.numpy.zeros(3)}
      >>> fn = lambda p, x: x @ p["w"] + p["b"]
      >>> quantize_params(fn, params, [np.ones((4, 2))], bits=8, quantizer="nearest")["w"].bits
      8
    """
    inputs = [np.asarray(batch) for batch in inputs]
    ops, granularity = linear_ops(fn, params, inputs[0]), group_size or "channel"
    chosen = lambda path, leaf: path in ops and np.ndim(leaf) > 1  # noqa: E731
    if quantizer == "nearest":
        axes = {path: op.roles for path, op in ops.items()}
        return post_training.quantize(params, bits, granularity, masks=masks, quantizable=chosen, axes=axes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", post_training.CalibrationWarning)  # few rows: the test metrics tell
        return post_training.gptq(
            fn, params, inputs, bits, granularity, masks=masks, quantizable=chosen, held_out=inputs[:1]
        ).params
