"""Distillation: how far a student's logits, hidden states and attention are from a teacher's."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.errors import ParamsError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.kept_count import is_concrete
from sparsejax.typing import Array, ArrayLike, Params


def distill_logits(student: Array, teacher: Array, *, temperature: float = 2.0) -> Array:
    """The soft targets' cross-entropy, less its least value: a divergence.

    ``T²·KL(softmax(t/T) ‖ softmax(s/T))``, the mean over all axes but the last

    The factor T² keeps the gradient's size when T changes. The teacher gets no gradient.

    Args:
      student: logits [..., classes].
      teacher: logits of the same shape.
      temperature: T > 0.

    Returns:
      A scalar ≥ 0.

    Raises:
      ParamsError: shapes that differ, or T ≤ 0.

    Example:
      >>> import jax.numpy as jnp
      >>> float(distill_logits(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 2.0]])))
      0.0

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2.
    """
    _same("logits", student, teacher)
    if is_concrete(temperature):
        require_numbers(ParamsError, above=True, temperature=temperature)
    targets = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / temperature)
    guesses = jax.nn.log_softmax(student / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(targets) * (targets - guesses), axis=-1))


def distill_hidden(
    student: Array, teacher: Array, *, projection: Array | None = None, where: Array | None = None
) -> Array:
    """The mean squared difference of hidden states, the student's projected to the teacher's width.

    ``mean (h_s·P − h_t)²``

    Args:
      student: [..., student width].
      teacher: [..., teacher width], with the same leading axes.
      projection: P [student width, teacher width], trained along with the student; None for equal widths.
      where: bool or 0/1 weights [...] of the leading axes, for padding; None counts all.

    Returns:
      A scalar ≥ 0.

    Raises:
      ParamsError: shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.ones((2, 3)), jnp.ones((2, 4))
      >>> float(distill_hidden(student, teacher, projection=jnp.ones((3, 4)) / 3))
      0.0

    Source: Jiao et al., "TinyBERT", arXiv 1909.10351, equation 8.
    """
    if projection is not None:
        student = student @ projection
    _same("hidden states", student, teacher)
    squares = jnp.mean((student - jax.lax.stop_gradient(teacher)) ** 2, axis=-1)
    return _mean(squares, where)


def distill_attention(student: Array, teacher: Array, *, where: Array | None = None) -> Array:
    """The divergence of attention maps, averaged over heads and queries.

    ``mean KL(A_t ‖ A_s)`` over rows; entries where the teacher's is 0 (masked keys) add nothing

    Args:
      student: probabilities [..., heads, queries, keys], each row summing to 1.
      teacher: of the same shape.
      where: bool or 0/1 weights that broadcast to [..., heads, queries]; None counts all.

    Returns:
      A scalar ≥ 0.

    Raises:
      ParamsError: shapes that differ.

    Example:
      >>> import jax.numpy as jnp
      >>> maps = jnp.array([[[0.25, 0.75], [1.0, 0.0]]])
      >>> float(distill_attention(maps, maps))
      0.0

    Source: Wang et al., "MiniLM", arXiv 2002.10957, equation 6.
    """
    _same("attention maps", student, teacher)
    teacher = jax.lax.stop_gradient(teacher)
    tiny = jnp.finfo(student.dtype).tiny
    # Both logarithms are of positive numbers, also where the other branch of `where` is taken.
    logs = jnp.log(jnp.maximum(teacher, tiny)) - jnp.log(jnp.maximum(student, tiny))
    rows = jnp.sum(jnp.where(teacher > 0, teacher * logs, 0.0), axis=-1)
    return _mean(rows, where)


def distill_layers(
    student: Array,
    teacher: Array,
    *,
    projection: Array | None = None,
    alive: ArrayLike | None = None,
    where: Array | None = None,
) -> tuple[Array, Array]:
    """Layer-wise distillation to whichever student layer is nearest: CoFi's dynamic matching.

    ``Σ_i MSE(h_s^m(i)·P, h_t^i)``, ``m(i) = argmin_j MSE(h_s^j·P, h_t^i)`` over the student layers alive

    The match is no part of the gradient. Layers that gates have removed are never chosen.

    Args:
      student: hidden states of all layers [student layers, ..., student width].
      teacher: of the layers to learn from [teacher layers, ..., teacher width].
      projection: P [student width, teacher width], shared by the layers; None for equal widths.
      alive: bool [student layers], traced or not; None: all. Where none is alive, all may be chosen.
      where: bool or 0/1 weights [...] of the axes between, for padding.

    Returns:
      ``(loss, matches)``: a scalar, and m as int32 [teacher layers].

    Raises:
      ParamsError: shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> teacher = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
      >>> loss, matches = distill_layers(teacher[::-1], teacher)
      >>> float(loss), matches.tolist()
      (0.0, [1, 0])

    Source: Xia et al., "Structured Pruning Learns Compact and Accurate Models", arXiv 2204.00408, equations 4
    and 5. There the loss is a sum over four teacher layers, here over those that are given.
    """
    if projection is not None:
        student = student @ projection
    _same("hidden states of one layer", student[0], teacher[0])

    def distance(h_s: Array, h_t: Array) -> Array:
        return distill_hidden(h_s, h_t, where=where)

    table = jax.vmap(lambda h_t: jax.vmap(lambda h_s: distance(h_s, h_t))(student))(teacher)
    allowed = jnp.ones(student.shape[0], bool) if alive is None else jnp.asarray(alive, bool)
    allowed = allowed | ~jnp.any(allowed)
    matches = jnp.argmin(jnp.where(allowed, jax.lax.stop_gradient(table), jnp.inf), axis=1).astype(jnp.int32)
    return jnp.sum(jnp.take_along_axis(table, matches[:, None], axis=1)), matches


def distilled(
    loss: Callable[..., Array],
    student: Callable[..., Array],
    teacher: Callable[..., Array],
    *,
    weight: float = 0.5,
    temperature: float = 2.0,
) -> Callable[..., Array]:
    """Mixes a loss with the distance to a teacher's logits.

    ``(1 − w)·L(f(θ, x), y) + w·T²·KL(teacher ‖ student)``

    Args:
      loss: ``(logits, targets) -> scalar``.
      student: ``(params, inputs) -> logits``.
      teacher: ``inputs -> logits``, any function: a larger model, the same one before pruning, an ensemble.
      weight: w in [0, 1].
      temperature: T > 0.

    Returns:
      ``(params, inputs, targets) -> scalar``.

    Raises:
      ParamsError: w outside [0, 1].

    Example:
      >>> import jax.numpy as jnp, optax
      >>> model = lambda params, x: x @ params
      >>> labels = optax.losses.softmax_cross_entropy_with_integer_labels
      >>> mixed = distilled(lambda s, y: labels(s, y).mean(), model, lambda x: x, weight=1.0)
      >>> float(mixed(jnp.eye(2), jnp.ones((3, 2)), jnp.zeros(3, int)))
      0.0

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2.
    """
    if is_concrete(weight):
        require_numbers(ParamsError, most=1, weight=weight)

    def mixed(params: Params, inputs: Any, targets: Any) -> Array:
        logits = student(params, inputs)
        soft = distill_logits(logits, teacher(inputs), temperature=temperature)
        return (1.0 - weight) * loss(logits, targets) + weight * soft

    return mixed


def _mean(values: Array, where: Array | None) -> Array:
    """The mean over what counts; 0 where nothing does."""
    if where is None:
        return jnp.mean(values)
    weights = jnp.broadcast_to(where, values.shape).astype(values.dtype)
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def _same(what: str, student: Array, teacher: Array) -> None:
    if student.shape != teacher.shape:
        raise ParamsError(
            f"The student's {what} have shape {student.shape}, the teacher's {teacher.shape}. For hidden states of "
            "another width pass projection=[student width, teacher width]."
        )
