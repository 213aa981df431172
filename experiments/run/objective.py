"""From a model's forward pass to what a step differentiates and what an evaluation adds up."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.data.split import Batch
from experiments.run.compute_dtype import Apply, in_dtype
from experiments.run.distillation import Distillation
from sparsejax.typing import Params


class Objective(NamedTuple):
    """The two questions that training asks of a model.

    Attributes:
      train: ``(params, batch_stats, batch) -> (loss, (batch_stats, accuracy))``, means over the batch.
      evaluate: ``(params, batch_stats, batch) -> (losses, accuracies)``, one of each an example.
      frozen: arrays that `train` reads and that are not trained: a teacher's.
      with_frozen: ``frozen -> Objective`` that reads those instead; a compiled program gets them as an argument.
    """

    train: Callable[[Params, Any, Batch], tuple[jax.Array, tuple[Any, jax.Array]]]
    evaluate: Callable[[Params, Any, Batch], tuple[jax.Array, jax.Array]]
    frozen: Any = ()
    with_frozen: Callable[[Any], "Objective"] | None = None

    def bind(self, frozen: Any) -> "Objective":
        """The same objective, reading `frozen`.

        Args:
          frozen: arrays like `self.frozen`, such as the argument of a program that is traced.

        Returns:
          The objective.
        """
        return self if self.with_frozen is None else self.with_frozen(frozen)


def example_losses(
    logits: jax.Array, targets: jax.Array, *, label_smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Computes each example's cross entropy (in nats) and share of right answers.

    ``−Σ_c q_c log softmax(logits)_c``, ``q = (1 − ε)·target + ε/classes``, averaged over an example's positions

    Args:
      logits: float, (batch, …, classes).
      targets: int classes, (batch, …); or probabilities like `logits` (mixup).
      label_smoothing: ε in [0, 1).

    Returns:
      ``(losses, accuracies)``, float32 (batch,).

    Example:
      >>> losses, accuracies = example_losses(jnp.eye(2), jnp.array([0, 0]))
      >>> accuracies.tolist()
      [1.0, 0.0]
    """
    logits = logits.astype(jnp.float32)
    classes = logits.shape[-1]
    soft = targets.ndim == logits.ndim
    if soft or label_smoothing:
        wanted = targets if soft else jax.nn.one_hot(targets, classes)
        wanted = (1 - label_smoothing) * wanted + label_smoothing / classes
        losses = optax.softmax_cross_entropy(logits, wanted)
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    right = jnp.argmax(logits, axis=-1) == (jnp.argmax(targets, axis=-1) if soft else targets)
    positions = tuple(range(1, losses.ndim))
    return losses.mean(positions), right.mean(positions, dtype=jnp.float32)


def make_objective(
    apply: Apply,
    *,
    compute_dtype: str = "float32",
    label_smoothing: float = 0.0,
    distillation: Distillation | None = None,
) -> Objective:
    """Builds the objective of a classifier or a language model.

    The parameters are float32 masters; in another compute type they and the inputs are cast on the way into
    the model, so that gradients come back in float32. Logits and losses are float32.

    Args:
      apply: the model.
      compute_dtype: "float32", or "bfloat16".
      label_smoothing: ε in [0, 1), in training only.
      distillation: a teacher, in training only; None for none.

    Returns:
      The objective.

    Example:
      >>> objective = make_objective(lambda w, stats, x, train: (x @ w, stats))
      >>> loss, (stats, accuracy) = objective.train(jnp.eye(2), {}, Batch(jnp.eye(2), jnp.array([0, 1])))
      >>> float(accuracy)
      1.0
    """
    forward = in_dtype(apply, compute_dtype)

    def plain(params: Params, stats: Any, inputs: jax.Array, train: bool) -> Any:
        logits, stats = forward(params, stats, inputs, train)
        return (logits, None), stats

    tells = distillation is not None and distillation.hidden is not None
    student = in_dtype(distillation.hidden, compute_dtype) if tells else plain

    def evaluate(params: Params, stats: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        return example_losses(forward(params, stats, batch.inputs, False)[0], batch.targets)

    def with_frozen(frozen: Any) -> Objective:
        def train(params: Params, stats: Any, batch: Batch) -> tuple[jax.Array, tuple[Any, jax.Array]]:
            (logits, hidden), stats = student(params, stats, batch.inputs, True)
            losses, accuracies = example_losses(logits, batch.targets, label_smoothing=label_smoothing)
            loss = losses.mean()
            if distillation is not None:
                logits, hidden = jax.tree.map(lambda x: x.astype(jnp.float32), (logits, hidden))
                loss = distillation.mix(loss, params, logits, hidden, batch.inputs, frozen)
            return loss, (stats, accuracies.mean())

        return Objective(train, evaluate, frozen, with_frozen)

    return with_frozen(() if distillation is None else distillation.variables)
