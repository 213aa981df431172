"""Quantization of weights without data: each is rounded to the nearest point of its grid."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.masks.mask_trees import apply_masks, validate
from sparsejax.parametrizations.integer_format import IntegerFormat, formatted_layers
from sparsejax.parametrizations.integer_grid import quantize_array
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import MaskTree, Params, Prunable


def quantize(
    params: Params,
    bits: int = 8,
    granularity: str | int = "channel",
    *,
    symmetric: bool = True,
    clip: str | None = "mse",
    masks: MaskTree | None = None,
    quantizable: Prunable | None = None,
    overrides: Mapping[str, IntegerFormat | None] | None = None,
    axes: Mapping[str, AxisRoles] | None = None,
) -> Params:
    """Quantizes weights by rounding to nearest, on scales of least squared error.

    ``q = clip(round(w / scale) + zero_point, −2^(bits−1), 2^(bits−1) − 1)``; ``w ≈ scale·(q − zero_point)``

    Weights that are zero stay exactly zero, with and without a zero point, so a pruned model stays pruned. Masks need
    not be given for that; they put the parameters on them first. With 4 bits `gptq` loses less, on a few batches.

    Args:
      params: the parameters, floating.
      bits: 2 to 8.
      granularity: "channel" (a scale for each output), "tensor", or the size of a group of inputs: 32, 64, 128.
      symmetric: False adds a zero point, worth it where weights lie on one side of zero.
      clip: "mse", or None for scales that clip nothing.
      masks: a mask tree.
      quantizable: ``(path, leaf) -> bool``; `default_prunable` when None: kernels, no embeddings, biases, norms.
      overrides: ``{path pattern: IntegerFormat}``, None to leave a parameter as it is; also reaches parameters that
        are not quantizable by default.
      axes: axis roles by path, ``{path: op.roles}`` of `linear_ops`; else the Flax convention.

    Returns:
      The parameters with a `QuantizedTensor` in the place of each that was quantized; `dequantize` gives arrays.

    Raises:
      QuantizationError: bits, granularity or groups that do not fit; integer or non-finite weights.
      PathError: an override that matches nothing.
      ParamsError: `quantizable`, `overrides` or `axes` of another kind.
      MaskError: masks that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.post_training import dequantize
      >>> found = quantize({"w": jnp.array([[7.0, 0.0], [3.1, 0.5]])}, bits=4, granularity="tensor", clip=None)
      >>> found["w"].values.tolist(), dequantize(found)["w"].tolist()
      ([[7, 0], [3, 0]], [[7.0, 0.0], [3.0, 0.0]])

    Source: Nagel et al., "A White Paper on Neural Network Quantization", arXiv 2106.08295, equations 1–7 and section
    3.1 (scales by squared error). Scales are bfloat16 numbers here, so that the weights are exact in float32.
    """
    format = IntegerFormat(bits, granularity, symmetric, clip)
    layers = formatted_layers(params, format, quantizable=quantizable, overrides=overrides, axes=axes)
    if masks is not None:
        validate(masks, params)
        params = apply_masks(params, masks)
    _, leaves, treedef = flatten_with_paths(params)
    for layer in layers:
        with np.errstate(over="ignore"):  # of float64: what does not fit is refused below
            leaf = jnp.asarray(leaves[layer.index])
        leaves[layer.index] = quantize_array(layer.path, leaf, layer.scale_shape, layer.format)
    return jax.tree.unflatten(treedef, leaves)
