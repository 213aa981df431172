"""The arithmetic of dot_general and conv_general_dilated: roles of axes, multiply-adds, what XLA counts."""

import math

import numpy as np
from jax.extend import core

CONTRACTIONS = ("dot_general", "conv_general_dilated")


def operand_roles(eqn: core.JaxprEqn, side: int) -> tuple[str, ...]:
    """The role of each axis of operand `side`: ``"input"``, ``"output"``, ``"spatial"`` or ``"stacked"``."""
    rank = len(eqn.invars[side].aval.shape)
    roles = ["output"] * rank
    if eqn.primitive.name == "dot_general":
        contracting, batch = (dims[side] for dims in eqn.params["dimension_numbers"])
        for axes, role in ((contracting, "input"), (batch, "stacked")):
            for axis in axes:
                roles[axis] = role
        return tuple(roles)
    _, into, *spatial = eqn.params["dimension_numbers"].rhs_spec
    roles[into] = "input"
    for axis in spatial:
        roles[axis] = "spatial"
    return tuple(roles)


def multiply_adds(eqn: core.JaxprEqn) -> int:
    """Multiply-adds as papers count them: every position of a convolution's kernel, padding included."""
    left, right = (var.aval.shape for var in eqn.invars[:2])
    if eqn.primitive.name == "dot_general":
        (contracting, _), _ = eqn.params["dimension_numbers"]
        return math.prod(eqn.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracting)
    out_axis = eqn.params["dimension_numbers"].rhs_spec[0]
    # A batch group contracts its own part of the batch only, which the output's size already says.
    return math.prod(eqn.outvars[0].aval.shape) * (math.prod(right) // max(right[out_axis], 1))


def valid_multiply_adds(eqn: core.JaxprEqn) -> int:
    """Multiply-adds as XLA counts them: without those that meet padding or dilation."""
    total = multiply_adds(eqn)
    if eqn.primitive.name == "dot_general":
        return total
    p = eqn.params
    numbers = p["dimension_numbers"]
    left, right = (var.aval.shape for var in eqn.invars[:2])
    out = eqn.outvars[0].aval.shape
    for i, (a, b, c) in enumerate(
        zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    ):
        dilations = (p["lhs_dilation"][i], p["rhs_dilation"][i])
        valid = _valid_pairs(left[a], right[b], out[c], p["window_strides"][i], p["padding"][i][0], dilations)
        total = total * valid // max(right[b] * out[c], 1)
    return total


def _valid_pairs(size: int, kernel: int, out: int, stride: int, low: int, dilations: tuple[int, int]) -> int:
    """How many (output, kernel) positions along one axis meet a real input element."""
    base, window = dilations
    at = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * window - low
    return int(((at >= 0) & (at <= (size - 1) * base) & (at % base == 0)).sum())
