"""The loss and accuracy over a whole split, batch by batch, of one run or of all members at once."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.data.split import Batch, Split, evenly_spaced
from experiments.data.streaming import Stream
from experiments.devices.hosts import any_host, data_share
from experiments.devices.mesh import batch_sharding
from experiments.run.objective import Objective
from experiments.run.state import over_members
from sparsejax.typing import Params


class Evaluation(NamedTuple):
    """How a model does on a whole split.

    Attributes:
      loss: mean cross entropy in nats; () or (members,).
      accuracy: share of right answers in [0, 1]; likewise.
    """

    loss: np.ndarray
    accuracy: np.ndarray


class TestStream(NamedTuple):
    """A test split that is read again for each evaluation.

    Attributes:
      open: gives a stream that passes over the split once.
      size: examples of the split.
      classes: classes of a target.
      input_shape: shape of one example's input.
      window: tokens of an example; 0 for images.
    """

    open: Callable[[], Stream]
    size: int
    classes: int
    input_shape: tuple[int, ...]
    window: int


def make_evaluate(
    objective: Objective,
    *,
    batch_size: int,
    population: bool = False,
    augment: Callable[[jax.Array, Batch], Batch] | None = None,
    mesh: Mesh | None = None,
) -> Callable[[Params, Any, Split | TestStream], Evaluation]:
    """Compiles the evaluation of splits.

    Args:
      objective: the model's.
      batch_size: examples a batch; the last one is filled up with examples of weight 0.
      population: whether parameters lead with an axis of members.
      augment: what inputs go through at evaluation too, such as normalisation.
      mesh: the devices; None for one.

    Returns:
      ``evaluate(params, batch_stats, split, examples=None) -> Evaluation``, on so many evenly spaced examples
      of a `Split`, or on all.

    Example:
      >>> import jax.numpy as jnp
      >>> from experiments.run.objective import make_objective
      >>> split = Split({"image": jnp.eye(3), "label": jnp.arange(3)}, size=3, classes=3)
      >>> objective = make_objective(lambda w, stats, x, train: (x @ w, stats))
      >>> float(make_evaluate(objective, batch_size=2)(jnp.eye(3), {}, split).accuracy)
      1.0
    """
    key = jax.random.key(0)  # evaluation draws nothing from it
    sharding = batch_sharding(mesh, population=population)

    def sums(params: Params, stats: Any, batch: Batch, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        if sharding is not None and not population:
            batch, weights = jax.lax.with_sharding_constraint((batch, weights), sharding)
        batch = batch if augment is None else augment(key, batch)
        losses, accuracies = objective.evaluate(params, stats, batch)
        return (weights * losses).sum(), (weights * accuracies).sum()

    whole = None if mesh is None else NamedSharding(mesh, P())  # every host reads its own copy
    program = jax.jit(over_members(sums, population, (0, 0, None, None)), out_shardings=whole)

    def evaluate(
        params: Params, batch_stats: Any, split: Split | TestStream, examples: int | None = None
    ) -> Evaluation:
        if isinstance(split, Split):
            chosen = evenly_spaced(split.size, min(examples or split.size, split.size))
            batches = _of_split(split, chosen, batch_size, sharding)
        else:
            batches = _of_stream(split, batch_size, sharding)
        parts = [(*program(params, batch_stats, batch, weights), weights.sum()) for batch, weights in batches]
        totals = (
            np.sum([np.asarray(x, np.float64) for x in part], axis=0) for part in zip(*parts, strict=True)
        )
        loss, accuracy, count = totals
        return Evaluation(loss / count, accuracy / count)

    return evaluate


_take = jax.jit(lambda split, indices: split.take(indices))


def _of_split(
    split: Split, chosen: np.ndarray, batch_size: int, sharding: NamedSharding | None
) -> Iterator[tuple[Batch, np.ndarray]]:
    shards = 1 if sharding is None else sharding.mesh.size
    size = min(batch_size, -(-len(chosen) // shards) * shards)
    for start in range(0, len(chosen), size):
        indices = chosen[start : start + size]
        real = np.arange(size) < len(indices)
        yield _take(split, np.resize(indices, size)), real.astype(np.float32)


def _of_stream(
    test: TestStream, batch_size: int, sharding: NamedSharding | None
) -> Iterator[tuple[Batch, jax.Array]]:
    size = batch_size // data_share(sharding, batch_size)[1]

    def fill(leaf: np.ndarray) -> jax.Array:
        whole = np.concatenate([leaf, np.zeros((size - len(leaf), *leaf.shape[1:]), leaf.dtype)])
        if sharding is None:
            return jax.numpy.asarray(whole)
        return jax.make_array_from_process_local_data(sharding, whole, (batch_size, *whole.shape[1:]))

    kind = np.int32 if test.window else np.float32
    nothing = Batch(
        np.zeros((0, *test.input_shape), kind),
        np.zeros((0, *([test.window] if test.window else [])), np.int32),
    )
    batches = test.open()
    while True:
        batch = next(batches, nothing)
        if not any_host(len(batch.inputs) > 0):  # hosts' shares differ in length; all take part to the end
            return
        yield jax.tree.map(fill, batch), fill(np.ones(len(batch.inputs), np.float32))
