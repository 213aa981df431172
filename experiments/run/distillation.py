"""Learning from a teacher: the network that a finished run left, and its part of a training step's loss."""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from experiments.errors import ConfigError, WorkdirError
from experiments.models.hidden_states import hidden_states
from experiments.models.saved import model_of_run
from experiments.run.compute_dtype import in_dtype
from experiments.run.initial import initial_batch_stats, initial_params
from experiments.run.population import runs_of
from sparsejax.distillation import distill_layers, distill_logits
from sparsejax.interop.flax import stateful
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import Params

#: ``(params, batch_stats, inputs, train) -> ((logits, hidden), batch_stats)``; hidden: (layers, batch, …, width).
ApplyHidden = Callable[[Params, Any, jax.Array, bool], tuple[tuple[jax.Array, jax.Array], Any]]


class Distillation(NamedTuple):
    """A teacher and its share of the loss.

    Attributes:
      teacher: ``(variables, inputs) -> (logits, hidden)``; hidden is None where `layers` is 0.
      variables: the teacher's arrays. They are an argument of a compiled step, not a part of its program.
      weight: of the logits' divergence, in [0, 1]; the labels have the rest.
      temperature: T of the softened logits.
      layers: weight of the layer-wise loss, which is added.
      hidden: the student that tells its hidden states; None where `layers` is 0.
    """

    teacher: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array | None]]
    variables: Any = ()
    weight: float = 0.5
    temperature: float = 2.0
    layers: float = 0.0
    hidden: ApplyHidden | None = None

    def mix(
        self,
        loss: jax.Array,
        params: Params,
        logits: jax.Array,
        hidden: jax.Array | None,
        inputs: jax.Array,
        variables: Any,
    ) -> jax.Array:
        """Mixes a loss with the distance to the teacher on the same inputs.

        ``(1 − w)·L + w·T²·KL(teacher ‖ student) + v·Σ_i MSE(student layer m(i), teacher layer i)``

        Args:
          loss: L, of the labels.
          params: the student's; a block whose kernels are all zero is matched with nothing.
          logits: the student's.
          hidden: its hidden states, or None.
          inputs: what it saw.
          variables: the teacher's, as the step was given them.

        Returns:
          The loss. The teacher gets no gradient.

        Source: Hinton et al., arXiv 1503.02531, section 2; layers: Xia et al., arXiv 2204.00408, equations 4 and 5.
        """
        known, layers = jax.lax.stop_gradient(self.teacher(variables, inputs))
        soft = distill_logits(logits, known.astype(jnp.float32), temperature=self.temperature)
        loss = (1 - self.weight) * loss + self.weight * soft
        if hidden is None:
            return loss
        apart, _ = distill_layers(hidden, layers.astype(jnp.float32), alive=alive_blocks(params))
        return loss + self.layers * apart


def alive_blocks(params: Params) -> jax.Array | None:
    """Tells which blocks of a transformer still add anything: ``out`` or ``down`` is not all zero.

    Args:
      params: effective parameters of a transformer of `experiments.models`.

    Returns:
      bool (blocks,); None where the blocks are stacked.

    Example:
      >>> one = {"attention": {"out": {"kernel": jnp.zeros(2)}}, "mlp": {"down": {"kernel": jnp.ones(2)}}}
      >>> alive_blocks({"block_0": one, "block_1": jax.tree.map(jnp.zeros_like, one)}).tolist()
      [True, False]
    """
    paths, leaves, _ = flatten_with_paths(params)
    found: dict[int, list[jax.Array]] = {}
    for path, leaf in zip(paths, leaves, strict=True):
        block, _, rest = path.partition("/")
        if block.startswith("block_") and rest in ("attention/out/kernel", "mlp/down/kernel"):
            found.setdefault(int(block.removeprefix("block_")), []).append(jnp.any(leaf != 0))
    if not found:
        return None
    return jnp.stack([jnp.any(jnp.stack(found[block])) for block in sorted(found)])


def teacher_config(directory: str) -> ConfigDict:
    """Reads the configuration that a finished run was made of.

    Args:
      directory: its workdir; of a population, one member's directory in it.

    Returns:
      The configuration, whose ``model`` says how to build the teacher.

    Raises:
      WorkdirError: no finished run is there.
    """
    place = pathlib.Path(directory)
    if not (place / "params.npz").is_file():
        members = sorted(path.parent.name for path in place.glob("seed_*/params.npz"))
        advice = f"one of its members, such as {place / members[0]}" if members else "that of a finished run"
        raise WorkdirError(f"config.teacher is {directory!r}, which holds no params.npz: give {advice}.")
    for path in (place / "config.json", place.parent / "config.json", place / "model.json"):
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise WorkdirError(f"{path} cannot be read ({error}): give another config.teacher.") from error
        if "model" in found:
            # JSON has lists where sizes were tuples.
            sizes = {name: tuple(x) if isinstance(x, list) else x for name, x in found["model"].items()}
            return ConfigDict(found | {"model": sizes})
    raise WorkdirError(f"config.teacher is {directory!r}, where no config.json names its model.")


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
    deep = config.distill_layers > 0
    shape = tuple(int(n) for n in np.asarray(input_shape))
    module = model_of_run(teacher_config(config.teacher).model, config.teacher, shape, classes)
    learner = model_of_run(config.model, config.init_from, shape, classes) if deep else None
    if deep and _width(module) != _width(learner):
        raise ConfigError(
            f"config.distill_layers is {config.distill_layers}, but the teacher's width is {_width(module)} and "
            f"the student's {_width(learner)}: choose a teacher of that width, or leave it at 0."
        )
    drawn = stateful(module)
    run = runs_of(config)[0]  # of a directory that is one run's, any will do
    params = initial_params(config.teacher, run, drawn.params)
    stats = initial_batch_stats(config.teacher, run, drawn.batch_stats)
    variables = jax.tree.map(jnp.asarray, (params, stats))
    apply = in_dtype(hidden_states(module) if deep else drawn.apply, config.compute_dtype)

    def teacher(variables: Any, inputs: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        out, _ = apply(*variables, inputs, False)
        return out if deep else (out, None)

    student = hidden_states(learner) if deep else None
    return Distillation(
        teacher,
        variables,
        config.distill_weight,
        config.distill_temperature,
        config.distill_layers,
        student,
    )


def _width(module: nnx.Module) -> int | None:
    """The features of a transformer's stream; None of another model."""
    embedding = getattr(module, "embedding", None)
    return None if embedding is None else int(embedding.embedding.shape[-1])
