"""The teacher that a configuration names: a finished run's network, loaded once, for all members of a population."""

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from experiments.errors import ConfigError
from experiments.models.build import build_model
from experiments.models.hidden_states import hidden_states
from experiments.run.distillation import Distillation, teacher_config
from experiments.run.initial import initial_batch_stats, initial_params
from experiments.run.objective import in_dtype
from experiments.run.population import runs_of
from sparsejax.interop.flax import stateful


def load_teacher(config: ConfigDict, input_shape: Sequence[int], classes: int) -> Distillation | None:
    """Loads the teacher, as a part of the loss.

    Args:
      config: of the student.
      input_shape: of one example of the student's data.
      classes: of a target there.

    Returns:
      What `make_objective` takes; None where no teacher is named.

    Raises:
      WorkdirError: no finished run, or one for data of another shape or other classes.
      ConfigError: hidden states of another width than the student's.
    """
    if not config.teacher:
        return None
    sizes = teacher_config(config.teacher).model
    deep = config.distill_layers > 0
    if deep and sizes.get("width") != config.model.width:
        raise ConfigError(
            f"config.distill_layers is {config.distill_layers}, but the teacher's width is {sizes.get('width')} and "
            f"the student's {config.model.width}: choose a teacher of that width, or leave it at 0."
        )
    module = _abstract(sizes, input_shape, classes)
    drawn = stateful(module)
    run = runs_of(config)[0]  # of a directory that is one run's, any will do
    params = initial_params(config.teacher, run, drawn.params)
    stats = initial_batch_stats(config.teacher, run, drawn.batch_stats)
    params, stats = jax.tree.map(jax.numpy.asarray, (params, stats))
    apply = in_dtype(hidden_states(module) if deep else drawn.apply, config.compute_dtype)

    def teacher(inputs: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        out, _ = apply(params, stats, inputs, False)
        return out if deep else (out, None)

    student = hidden_states(_abstract(config.model, input_shape, classes)) if deep else None
    return Distillation(
        teacher, config.distill_weight, config.distill_temperature, config.distill_layers, student
    )


def _abstract(sizes: ConfigDict, input_shape: Sequence[int], classes: int) -> nnx.Module:
    shape = tuple(int(n) for n in np.asarray(input_shape))
    return nnx.eval_shape(lambda: build_model(sizes, input_shape=shape, classes=classes, rngs=nnx.Rngs(0)))
