"""A run without its arrays: every shape, type and place of one step, for tracing and lowering on any machine."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.data.split import Batch
from experiments.devices.mesh import batch_sharding, check_batch
from experiments.run.chunk import stream_step
from experiments.run.placing import state_shardings
from experiments.run.prepare import first_state, outline
from experiments.run.state import Member, TrainState, make_member


class AbstractStep(NamedTuple):
    """One training step as shapes.

    Attributes:
      program: the jitted ``(state, member, batch) -> (state, metrics)``, to be traced and lowered.
      state: of shapes, with shardings where there is a mesh.
      member: likewise.
      batch: likewise.
    """

    program: Any
    state: TrainState
    member: Member
    batch: Batch


def abstract_step(
    config: ConfigDict, input_shape: Sequence[int], classes: int, mesh: Mesh | None = None
) -> AbstractStep:
    """Makes the step of a single run without data and without drawing a parameter.

    ``jax.eval_shape(made.program, *made[1:])`` traces it;
    ``made.program.trace(*made[1:]).lower(lowering_platforms=("tpu",))`` lowers it for hardware that is elsewhere.

    Args:
      config: a valid configuration of one run.
      input_shape: of one example: images, or (window,) for tokens.
      classes: of a target.
      mesh: any devices, such as simulated ones.

    Returns:
      The step.
    """
    text = len(input_shape) == 1
    made = outline(config, input_shape, classes, text=text, mesh=None, described=mesh)
    sharding = batch_sharding(mesh, population=False)
    check_batch("batch_size", config.batch_size, sharding, config.accumulate)
    member = jax.eval_shape(lambda: make_member(config.seed, config.learning_rate))
    params, stats = jax.eval_shape(made.draw, jax.random.key(0))
    state = jax.eval_shape(first_state(config, made.groups[0], made.meter), member, params, stats)
    inputs = jax.ShapeDtypeStruct((config.batch_size, *input_shape), np.int32 if text else np.float32)
    batch = Batch(inputs, jax.ShapeDtypeStruct(inputs.shape[: 2 if text else 1], np.int32))
    if mesh is not None:
        state = _with(state, state_shardings(state, mesh, population=False))
        whole = state.step.sharding
        member = _with(member, jax.tree.map(lambda leaf: whole, member))
        batch = _with(batch, jax.tree.map(lambda leaf: sharding, batch))
    recipe = made.recipes[0]._replace(batch_sharding=sharding)
    return AbstractStep(stream_step(recipe, state), state, member, batch)


def _with(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
    )
