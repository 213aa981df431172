"""Quantization-aware training: the forward pass sees weights on the integer grid, the gradient passes through."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.errors import ParamsError, ScheduleError
from sparsejax.masks.mask_trees import apply_masks, validate
from sparsejax.parametrizations.integer_format import FormattedLayer, IntegerFormat, formatted_layers
from sparsejax.parametrizations.integer_grid import (
    QuantizedTensor,
    between_runs,
    choose_scales,
    from_integers,
    in_runs,
    to_integers,
)
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.params.check_numbers import require_steps
from sparsejax.params.paths import flatten_with_paths
from sparsejax.transforms.parametrization import Aux, Parametrization, no_penalty, replaced, when
from sparsejax.transforms.reparametrize import ReparametrizeState
from sparsejax.typing import Array, ArrayLike, MaskTree, Params, Prunable


@jax.tree_util.register_static
class Layers(tuple):
    """The layers as a static value."""


class Grids(NamedTuple):
    """The grids in force.

    Attributes:
      scales: float32, one array a layer.
      zero_points: int8, one array a layer; an empty tuple where all are zero.
      masks: the mask tree that holds, or an empty tuple.
      layers: path, shape and format of each layer; no arrays.
    """

    scales: tuple[Array, ...]
    zero_points: tuple[Any, ...]
    masks: Any
    layers: Layers


def fake_quant(
    bits: int = 8,
    granularity: str | int = "channel",
    *,
    symmetric: bool = True,
    clip: str | None = "mse",
    masks: MaskTree | None = None,
    begin_step: int = 0,
    update_every: int = 50,
    quantizable: Prunable | None = None,
    overrides: Mapping[str, IntegerFormat | None] | None = None,
    axes: Mapping[str, AxisRoles] | None = None,
) -> Parametrization:
    """The parametrization of quantization-aware training.

    ``w' = m·scale·(q(w) − zero_point)``, ``q(w) = clip(round(w / scale) + zero_point, lowest, highest)``; backward
    ``∂L/∂w = m·∂L/∂w'`` where q is not clipped, else 0

    Scales are chosen from the latents at step `begin_step` and every `update_every` steps after it, and stay in
    between, so that a weight does not feel the grid move under it at each step.

    Args:
      bits: 2 to 8.
      granularity: "channel", "tensor", or the size of a group; as in `IntegerFormat`.
      symmetric: whether there is no zero point.
      clip: "mse" or None, as in `IntegerFormat`.
      masks: a mask tree; weights off it are exactly zero in every forward pass, and get no gradient. Without it
        pruned weights of the start are trained like all others.
      begin_step: until then the weights pass as they are (on their masks).
      update_every: steps between choices of the scales, ≥ 1.
      quantizable: ``(path, leaf) -> bool``; `default_prunable` when None.
      overrides: another format by path pattern, None to leave a parameter as it is.
      axes: axis roles by path, else the Flax convention.

    Returns:
      The parametrization; `reparametrize` makes an optimizer of it, `quantized_params` gives the integers.

    Raises:
      QuantizationError: a format that does not exist or does not fit.
      MaskError: masks that do not fit.
      ScheduleError: steps that are none.

    Example:
      >>> import jax.numpy as jnp, optax, sparsejax
      >>> tx = sparsejax.reparametrize(optax.sgd(0.1), fake_quant(4, clip=None))
      >>> params, state = sparsejax.init(tx, {"w": jnp.array([[6.9], [-3.4]])})
      >>> params["w"].tolist()
      [[6.91796875], [-2.96484375]]

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", arXiv 1712.05877, section 3; the straight-through gradient of clipped values: Esser et al.,
    "Learned Step Size Quantization", arXiv 1902.08153, equation 3 without its learned scale.
    """
    require_steps(begin_step=begin_step, update_every=update_every)
    if update_every < 1:
        raise ScheduleError("update_every is 0; give a number of steps of at least 1.")
    format = IntegerFormat(bits, granularity, symmetric, clip)

    def layers_of(params: Params) -> tuple[FormattedLayer, ...]:
        return formatted_layers(params, format, quantizable=quantizable, overrides=overrides, axes=axes)

    def init(params: Params, key: Array | None) -> Aux:
        del key
        if masks is not None:
            validate(masks, params)
        layers = layers_of(params)
        ones = tuple(jnp.ones(layer.scale_shape) for layer in layers)
        zeros = tuple(
            None if layer.format.symmetric else jnp.zeros(layer.scale_shape, jnp.int8) for layer in layers
        )
        # A scale of infinity says that there is no grid yet.
        begun = ones if begin_step == 0 else tuple(jnp.full_like(one, jnp.inf) for one in ones)
        return Aux(held=Grids(begun, zeros, () if masks is None else masks, Layers(layers)))

    def apply(params: Params, aux: Aux, key: Array | None) -> Params:
        del key
        held = aux.held
        kept = params if isinstance(held.masks, tuple) and not held.masks else apply_masks(params, held.masks)
        _, leaves, treedef = flatten_with_paths(kept)
        new = {
            layer.index: _rounded(leaves[layer.index], scale, zero_point, layer.format.bits)
            for layer, scale, zero_point in zip(held.layers, held.scales, held.zero_points, strict=True)
        }
        return jax.tree.unflatten(treedef, replaced(leaves, new))

    def advance(params: Params, aux: Aux, step: ArrayLike) -> Aux:
        due = (step >= begin_step) & ((step - begin_step) % update_every == 0)
        return aux._replace(held=when(due, _chosen, lambda params, held: held, params, aux.held))

    def hard_masks(params: Params, aux: Aux) -> MaskTree:
        held = aux.held.masks
        absent = isinstance(held, tuple) and not held
        return jax.tree.map(lambda _: jnp.asarray(True), params) if absent else held

    return Parametrization(init, apply, no_penalty, advance, hard_masks)


def _chosen(params: Params, held: Grids) -> Grids:
    """The grids of the latents as they are now."""
    absent = isinstance(held.masks, tuple) and not held.masks
    leaves = flatten_with_paths(params if absent else apply_masks(params, held.masks))[1]
    found = [choose_scales(leaves[x.index], x.scale_shape, x.format) for x in held.layers]
    return held._replace(scales=tuple(s for s, _ in found), zero_points=tuple(z for _, z in found))


@jax.custom_vjp
def _through(weights: Array, rounded: Array, inside: Array) -> Array:
    """`rounded`, with the gradient of `weights` where they lie inside the grid."""
    del weights, inside
    return rounded


_through.defvjp(
    lambda weights, rounded, inside: (rounded, inside),
    lambda inside, g: (jnp.where(inside, g, 0), None, None),
)


def _rounded(weights: Array, scale: Array, zero_point: Array | None, bits: int) -> Array:
    grid = jnp.where(jnp.isinf(scale), 1.0, scale)
    steps = in_runs(weights, scale.shape) / between_runs(grid)
    if zero_point is not None:
        steps = steps + between_runs(zero_point)
    lowest, highest = IntegerFormat(bits).levels
    # Half a step beyond the ends still rounds to them.
    inside = ((steps >= lowest - 0.5) & (steps <= highest + 0.5)).reshape(weights.shape)
    on_grid = from_integers(to_integers(weights, grid, zero_point, bits), grid, zero_point)
    begun = jnp.broadcast_to(~jnp.isinf(between_runs(scale)), steps.shape).reshape(weights.shape)
    values = jnp.where(begun, on_grid.astype(weights.dtype), weights)
    return _through(weights, jax.lax.stop_gradient(values), inside | ~begun)


def quantized_params(opt_state: Any) -> Params:
    """The integers and scales at the end of quantization-aware training.

    Args:
      opt_state: a state that holds a `reparametrize` of `fake_quant`, at any depth.

    Returns:
      The parameters with a `QuantizedTensor` for each that was quantized; what they stand for is what `finalize`
      gives.

    Raises:
      ParamsError: there is none, or its grid has not begun.

    Example:
      >>> import jax.numpy as jnp, optax, sparsejax
      >>> tx = sparsejax.reparametrize(optax.sgd(0.1), fake_quant(4, clip=None))
      >>> _, state = sparsejax.init(tx, {"w": jnp.array([[7.0], [-3.4]])})
      >>> quantized_params(state)["w"].values.tolist()
      [[7], [-3]]
    """
    whole = lambda node: isinstance(node, ReparametrizeState)  # noqa: E731
    states = [s for s in jax.tree.leaves(opt_state, is_leaf=whole) if whole(s)]
    states = [s for s in states if isinstance(s.aux.held, Grids)]
    if len(states) != 1:
        raise ParamsError(
            f"This optimizer state holds {len(states)} reparametrize(…, fake_quant(…)); quantized_params reads one."
        )
    held, dtypes = states[0].aux.held, states[0].method.dtypes
    if any(bool(jnp.any(jnp.isinf(scale))) for scale in held.scales):
        raise ParamsError("The grid has not begun: no step from begin_step on was taken.")
    absent = isinstance(held.masks, tuple) and not held.masks
    latents = states[0].latents if absent else apply_masks(states[0].latents, held.masks)
    _, leaves, treedef = flatten_with_paths(latents)
    new = [leaf.astype(dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
    for layer, scale, zero_point in zip(held.layers, held.scales, held.zero_points, strict=True):
        values = to_integers(leaves[layer.index], scale, zero_point, layer.format.bits)
        dtype = jnp.dtype(dtypes[layer.index]).name
        new[layer.index] = QuantizedTensor(values, scale, zero_point, layer.format.bits, dtype)
    return jax.tree.unflatten(treedef, new)
