"""Many steps as one compiled program, of one run or of a whole population."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from experiments.data.batches import batch_indices
from experiments.data.split import Batch, Split
from experiments.run.mask_meter import MaskMeter
from experiments.run.methods import Method
from experiments.run.objective import Objective
from experiments.run.state import STATE_AXES, Member, TrainState, over_members
from experiments.run.step import StepMetrics, train_step


class ChunkRecipe(NamedTuple):
    """All that a program is made of besides its data and its state.

    Attributes:
      objective: the model's.
      build: ``member -> Method``; traced, so that one program serves every member.
      meter: reads masks out of the optimizer's states.
      batch_size: examples a step.
      accumulate: parts that a batch is cut into.
      ema_decay: 0 keeps no average.
      augment: ``(key, batch) -> batch``; None for none.
      population: whether states lead with an axis of members.
      batch_sharding: how a batch lies on the devices; None on one device.
      stepwise: whether the host takes the steps, one program each; see `needs_host_steps`.
    """

    objective: Objective
    build: Callable[[Member], Method]
    meter: MaskMeter
    batch_size: int
    accumulate: int = 1
    ema_decay: float = 0.0
    augment: Callable[[jax.Array, Batch], Batch] | None = None
    population: bool = False
    batch_sharding: NamedSharding | None = None
    stepwise: bool = False


#: ``(state, members) -> (state, metrics)``; the state that goes in is consumed.
RunChunk = Callable[[TrainState, Member], tuple[TrainState, StepMetrics]]


def compile_chunk(
    recipe: ChunkRecipe, state: TrainState, member: Member, split: Split, count: int
) -> RunChunk:
    """Compiles `count` steps on a split that lies on the device; the state's buffers are reused (donated).

    Args:
      recipe: what a step does.
      state: a state like those to come.
      member: its member, or the members of the population.
      split: the training split.
      count: steps a chunk.

    Returns:
      ``chunk(state, member) -> (state, metrics)``, with metrics stacked over the steps.
    """

    def draw(member: Member, step: jax.Array) -> jax.Array:
        return batch_indices(member.data_key, step, count, split.size, recipe.batch_size)

    def step(state: TrainState, member: Member, indices: jax.Array, split: Split, frozen: Any) -> Any:
        return _step(_bound(recipe, frozen), state, member, split.take(indices))

    frozen = recipe.objective.frozen
    lifted = over_members(step, recipe.population, (STATE_AXES, 0, 0, None, None), (STATE_AXES, 0))
    draw_all = over_members(draw, recipe.population, (0, None), 1)

    def scanned(
        state: TrainState, member: Member, split: Split, frozen: Any
    ) -> tuple[TrainState, StepMetrics]:
        batches = draw_all(member, state.step)
        return jax.lax.scan(lambda state, batch: lifted(state, member, batch, split, frozen), state, batches)

    if not recipe.stepwise:
        program = _compile(scanned, state, member, split, frozen)
        return lambda state, member: program(state, member, split, frozen)
    draw_program = jax.jit(draw_all, out_shardings=state.step.sharding).lower(member, state.step).compile()
    one = _compile(lifted, state, member, np.asarray(draw_program(member, state.step))[0], split, frozen)

    def chunk(state: TrainState, member: Member) -> tuple[TrainState, StepMetrics]:
        rows = []
        for batch in np.asarray(draw_program(member, state.step)):
            state, row = one(state, member, batch, split, frozen)
            rows.append(row)
        return state, jax.tree.map(lambda *parts: np.stack(parts), *rows)

    return chunk


def stream_chunk(
    recipe: ChunkRecipe, state: TrainState, member: Member, batches: Iterator[Batch], count: int
) -> RunChunk:
    """Compiles one step on batches that come from the host; the members of a population share them.

    Args:
      recipe: what a step does.
      state: a state like those to come.
      member: its member, or the members.
      batches: this process's part of each batch, as host arrays.
      count: steps a chunk.

    Returns:
      ``chunk(state, member) -> (state, metrics)``.
    """
    program = stream_step(recipe, state)

    def put(leaf: np.ndarray) -> jax.Array:
        if recipe.batch_sharding is None:
            return jnp.asarray(leaf)
        shape = (recipe.batch_size, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(recipe.batch_sharding, leaf, shape)

    def chunk(state: TrainState, member: Member) -> tuple[TrainState, StepMetrics]:
        rows = []
        for _ in range(count):
            # Dispatch returns at once: the next batch is read while this step runs.
            state, row = program(state, member, jax.tree.map(put, next(batches)), recipe.objective.frozen)
            rows.append(row)
        return state, jax.tree.map(lambda *parts: np.stack(parts), *rows)

    return chunk


def stream_step(recipe: ChunkRecipe, state: TrainState) -> Callable[[TrainState, Member, Batch], Any]:
    """Makes the program of one step on a batch that is given; nothing is compiled before its first call.

    Args:
      recipe: what a step does.
      state: says where the arrays lie, and need be no more than shapes with shardings.

    Returns:
      The jitted ``(state, member, batch, frozen) -> (state, metrics)``; the state that goes in is consumed.
      `frozen` is the objective's; left out, it becomes a constant of the program.
    """

    def step(state: TrainState, member: Member, batch: Batch, frozen: Any) -> tuple[TrainState, StepMetrics]:
        return _step(_bound(recipe, frozen), state, member, batch)

    lifted = over_members(step, recipe.population, (STATE_AXES, 0, None, None), (STATE_AXES, 0))

    def program(
        state: TrainState, member: Member, batch: Batch, frozen: Any = recipe.objective.frozen
    ) -> tuple[TrainState, StepMetrics]:
        return lifted(state, member, batch, frozen)

    return jax.jit(program, donate_argnums=0, out_shardings=_places(state))


def needs_host_steps(apply: Callable[..., Any], *arguments: Any) -> bool:
    """Tells whether a loop over this function's gradient should stay outside of XLA.

    On the CPU XLA does not bring the convolutions of a loop's body into the form that its fast kernels need
    (github.com/jax-ml/jax/issues/12868): the gradient of one 3×3 layer was 35 to 55 times slower inside a
    scan. A population of such networks runs member by member there too, since a batch of kernels turns into
    a grouped convolution.

    Args:
      apply: the model's function.
      *arguments: what it is called with, or their shapes.

    Returns:
      Whether this is a CPU and the function has convolutions.

    Example:
      >>> needs_host_steps(lambda x: x @ x, np.eye(2))
      False
    """
    if jax.default_backend() != "cpu":
        return False
    return "conv_general_dilated" in str(jax.make_jaxpr(apply)(*arguments))


def _bound(recipe: ChunkRecipe, frozen: Any) -> ChunkRecipe:
    return recipe._replace(objective=recipe.objective.bind(frozen))


def _step(
    recipe: ChunkRecipe, state: TrainState, member: Member, batch: Batch
) -> tuple[TrainState, StepMetrics]:
    if recipe.augment is not None:
        batch = recipe.augment(jax.random.fold_in(member.augment_key, state.step), batch)
    sharding = None if recipe.population else recipe.batch_sharding
    if sharding is not None:
        batch = jax.lax.with_sharding_constraint(batch, sharding)
    return train_step(
        recipe.objective, recipe.build(member).tx, recipe.meter, state, batch,
        accumulate=recipe.accumulate, ema_decay=recipe.ema_decay, batch_sharding=sharding,
    )  # fmt: skip


def _compile(program: Callable, state: TrainState, *rest: Any) -> Callable:
    return jax.jit(program, donate_argnums=0, out_shardings=_places(state)).lower(state, *rest).compile()


def _places(state: TrainState) -> tuple[Any, Any]:
    # A compiled program takes only what lies as it was compiled for: the state must leave as it came. Metrics
    # lie whole on every device, as the step does: each host reads its own copy.
    return jax.tree.map(lambda leaf: leaf.sharding, state), state.step.sharding
