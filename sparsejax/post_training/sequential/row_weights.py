"""What each calibration row counts: given by the caller, or read off the gradient of the dense model's result."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import CalibrationError
from sparsejax.params.check_values import describe_value
from sparsejax.params.paths import flatten_with_paths, match_paths
from sparsejax.post_training.sequential.flat_program import FlatProgram, Instruction
from sparsejax.post_training.sequential.segments import Compiled, cut
from sparsejax.post_training.sequential.walk import Walk
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.calibration.input_rows import input_rows
from sparsejax.typing import Array, Params

#: None, "gradient", or ``(params, *inputs) -> {path pattern: weights}``.
RowWeights = None | str | Callable[..., Mapping[str, Any]]


def row_weights_of(
    row_weights: RowWeights, walk: Walk, params: Params, batches: list[Any]
) -> list[dict[int, Array]]:
    """The weights of every batch's rows at every layer.

    Derived from the gradient: with y_r the outputs of row r at a layer, z the model's result and v a vector of random
    signs as large as z, ``g_r = ∂(vᵀz)/∂y_r`` and the weight is ``‖g_r‖²``. Over v it is the squared size of the
    result's Jacobian by y_r: how much a small change of these outputs changes the result. Rows that nothing reads,
    such as the losers of a maximum, count nothing. One sign vector a batch, the same in every run.

    Args:
      row_weights: as `prune_model` takes it.
      walk: all batches.
      params: the dense parameters.
      batches: their inputs, in the walk's order.

    Returns:
      For each batch the weights, (rows,) or (stacked…, rows), by the number of the instruction.

    Raises:
      CalibrationError: weights that are negative, not finite or of another number; an unknown word, or a function
        that gives no mapping. (A layer whose rows all weigh nothing is refused when its turn comes.)
      PathError: a pattern that matches no layer.
    """
    if row_weights is None:
        return [{} for _ in batches]
    if row_weights != "gradient" and (isinstance(row_weights, str) or not callable(row_weights)):
        raise CalibrationError(f"row_weights={row_weights!r}: choose None, 'gradient', or a function.")
    compiled: Compiled = {}
    leaves = flatten_with_paths(params)[1]
    found = []
    for i, batch in enumerate(batches):
        program, inputs = walk.program_of(i), jaxprs.as_tuple(batch)
        if isinstance(row_weights, str):
            own = _by_gradient(program, leaves, inputs, compiled)
        else:
            own = _given(program, row_weights(params, *inputs))
        found.append(own)
    return found


def _layers(program: FlatProgram) -> dict[int, Instruction]:
    """The instructions whose rows have weights: products outside loops and branches."""
    return {i: ins for i, ins in enumerate(program.instructions) if ins.uses and not ins.opaque}


def _given(program: FlatProgram, weights: Mapping[str, Any]) -> dict[int, Array]:
    if not isinstance(weights, Mapping):
        raise CalibrationError(
            f"row_weights gives {describe_value(weights)}; it should give {{path pattern: weights}}."
        )
    paths = {i: program.traced.paths[ins.uses[0][1].leaf] for i, ins in _layers(program).items()}
    chosen = match_paths(weights, list(dict.fromkeys(paths.values())), "row_weights")
    found = {}
    for place, path in paths.items():
        if path in chosen:
            shape = _rows_shape(program, program.instructions[place])
            found[place] = _checked(weights[chosen[path]], shape, path)
    return found


def _rows_shape(program: FlatProgram, instruction: Instruction) -> tuple[int, ...]:
    use = instruction.uses[0][1]
    shape = program.traced.closed.jaxpr.invars[use.leaf].aval.shape
    operand = instruction.eqn.invars[1 - use.side].aval
    operand = jax.ShapeDtypeStruct(operand.shape, operand.dtype)
    rows = jax.eval_shape(
        lambda x: input_rows(use, shape, program.traced.paths[use.leaf], [x, x]).array, operand
    )
    return rows.shape[:-1]


def _checked(given: Any, shape: tuple[int, ...], path: str) -> Array:
    try:
        weights = np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"row_weights: those of {path!r} are no numbers: {error}.") from error
    if weights.size not in (shape[-1], int(np.prod(shape))):
        raise CalibrationError(
            f"row_weights: {path!r} has {shape[-1]} rows in this batch ({shape} with its stacked axes), and the "
            f"weights are of shape {weights.shape}. Give one number for each row."
        )
    if not np.all(np.isfinite(weights) & (weights >= 0)):
        raise CalibrationError(f"row_weights: those of {path!r} are negative or not finite.")
    return jnp.asarray(weights.reshape(shape if weights.size != shape[-1] else shape[-1]))


def _by_gradient(
    program: FlatProgram, leaves: list[Array], inputs: tuple[Any, ...], compiled: Compiled
) -> dict[int, Array]:
    layers = _layers(program)
    arguments = [*leaves, *jax.tree.leaves(inputs)]
    key = "gradient " + str([np.shape(x) for x in arguments])
    if key not in compiled:

        def result(moved: dict[int, Array], arguments: list[Any]) -> Array:
            return _signed_sum(_evaluate(program, moved, arguments))

        def weights(arguments: list[Any]) -> dict[int, Array]:
            shapes = {i: program.instructions[i].eqn.outvars[0].aval for i in layers}
            zeros = {i: jnp.zeros(aval.shape, aval.dtype) for i, aval in shapes.items()}
            slopes = jax.grad(result)(zeros, arguments)
            return {i: _row_squares(program, layers[i], slopes[i]) for i in layers}

        compiled[key] = jax.jit(weights)
    found = compiled[key](arguments)
    total = {i: float(jnp.sum(w)) for i, w in found.items()}
    for place, size in total.items():
        if not np.isfinite(size):
            path = program.traced.paths[layers[place].uses[0][1].leaf]
            raise CalibrationError(f"row_weights='gradient': the gradient at {path!r} is not finite.")
    return found


def _evaluate(program: FlatProgram, moved: dict[int, Array], arguments: list[Any]) -> list[Any]:
    """The function's results, with something added to the outputs of its layers."""
    count = len(program.traced.paths)
    everything = cut(program, 0, len(program.instructions), program.outputs)
    values = dict(enumerate(arguments[:count]))
    values.update(zip(program.inputs, arguments[count:], strict=True))
    steps = {id(ins): i for i, ins in enumerate(program.instructions) if i in moved}

    def step(instruction: Instruction) -> Instruction:
        place = steps.get(id(instruction))
        if place is None:
            return instruction
        run = instruction.run
        return instruction._replace(run=lambda operands: [run(operands)[0] + moved[place]])

    changed = everything._replace(instructions=tuple(step(ins) for ins in everything.instructions))
    return changed.run(
        [values[slot] for slot in changed.leaves],
        [program.constants[slot] for slot in changed.constants],
        [values[slot] for slot in changed.live],
    )


def _signed_sum(results: list[Any]) -> Array:
    """The sum of all results under random signs."""
    total = jnp.zeros(())
    for number, value in enumerate(results):
        value = jnp.asarray(value)
        if jnp.issubdtype(value.dtype, jnp.floating):
            signs = jax.random.rademacher(jax.random.key(number), value.shape, jnp.float32)
            total += jnp.sum(signs * value.astype(jnp.float32))
    return total


def _row_squares(program: FlatProgram, instruction: Instruction, slope: Array) -> Array:
    """``‖g_r‖²`` of each row in the order of `input_rows`."""
    use, eqn = instruction.uses[0][1], instruction.eqn
    squares = slope.astype(jnp.float32) ** 2
    if eqn.primitive.name != "dot_general":
        groups = eqn.params["feature_group_count"]
        out = eqn.params["dimension_numbers"].out_spec
        squares = squares.transpose(out)
        batch, channels, *positions = squares.shape
        squares = squares.reshape(batch, groups, channels // groups, *positions).sum(2)
        return squares.swapaxes(0, 1).reshape(groups, -1) if groups > 1 else squares.reshape(-1)
    shape = program.traced.closed.jaxpr.invars[use.leaf].aval.shape
    operand, weight = (eqn.invars[side].aval for side in (1 - use.side, use.side))
    ones = jnp.ones(weight.shape, jnp.float32)
    numbers = eqn.params["dimension_numbers"]

    def product(x: Array) -> Array:
        sides = (x, ones) if use.side == 1 else (ones, x)
        return jax.lax.dot_general(*sides, numbers, precision=jax.lax.Precision.HIGHEST)

    # The transposed product with ones sums over the outputs; every feature of a row holds the same sum.
    (spread,) = jax.linear_transpose(product, jax.ShapeDtypeStruct(operand.shape, jnp.float32))(squares)
    return input_rows(use, shape, program.traced.paths[use.leaf], [spread, spread]).array[..., 0]
