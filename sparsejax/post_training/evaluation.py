"""How good a pruned model is: perplexity as the literature counts it, bits per byte, agreement with the dense model."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import EvaluationError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_kind
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.typing import Array, Params


class Perplexity(NamedTuple):
    """How well a language model predicts a text.

    Attributes:
      perplexity: ``exp(nats / tokens)``.
      nats: the sum of −ln p over the tokens that were scored.
      tokens: how many were scored; the first of each context is not.
      windows: contexts.
    """

    perplexity: float
    nats: float
    tokens: int
    windows: int

    def bits_per_byte(self, size: int | None = None) -> float:
        """The mean cost of a byte of the text, which does not depend on the tokenizer.

        Args:
          size: bytes of the scored text; the number of scored tokens when None (a model of bytes).

        Returns:
          ``nats / ln 2 / bytes``.

        Example:
          >>> Perplexity(16.0, 8 * math.log(16.0), 8, 1).bits_per_byte()
          4.0
        """
        size = self.tokens if size is None else size
        if size <= 0:
            raise EvaluationError(f"size={size!r}: the scored text has at least one byte.")
        return self.nats / math.log(2) / size


def perplexity(
    fn: Callable[..., Any],
    params: Params,
    tokens: Any,
    window: int,
    stride: int | None = None,
    *,
    batch_size: int = 8,
    keep_tail: bool = False,
) -> Perplexity:
    """The perplexity of a causal language model on one long text.

    Contexts of `window` tokens begin every `stride` tokens. Each scores the tokens that none before has scored, given
    those before them in the context; the first token of a context is never scored. With ``stride = window`` the
    contexts do not overlap, each scores window − 1 tokens and what is left at the end is dropped, as the tables of
    GPTQ, SparseGPT and Wanda are made (WikiText-2, window 2048). A smaller stride gives every token at least
    ``window − stride`` tokens of context.

    The same tokens are scored whatever `batch_size` is, the last batch filled up with rows that do not count, and the
    costs of single tokens are added in float64 without rounding. What is left is the rounding of `fn` and its softmax,
    which XLA may compile otherwise for another number of rows (float32: in the eighth digit).

    Args:
      fn: ``fn(params, tokens) -> logits`` for int32 tokens (rows, window); logits (rows, window, vocabulary).
      params: its parameters.
      tokens: whole numbers (length,), the text from beginning to end, all documents joined.
      window: tokens of a context, ≥ 2.
      stride: in [1, window]; `window` when None.
      batch_size: contexts at once.
      keep_tail: whether a last, shorter context scores what is left at the end. It is padded on the right, which a
        causal model does not see.

    Returns:
      The perplexity with the number of tokens it is a mean of.

    Raises:
      EvaluationError: no whole context, tokens that are no row of whole numbers, logits of another shape or that
        are not finite, a stride or batch size out of range.

    Example:
      >>> uniform = lambda p, x: jnp.zeros((*x.shape, 7))
      >>> found = perplexity(uniform, {}, np.arange(20) % 7, window=5)
      >>> round(found.perplexity, 4), found.tokens, found.windows
      (7.0, 16, 4)

    Source: Merity et al., "Pointer Sentinel Mixture Models", arXiv 1609.07843 (the data); Frantar and Alistarh,
    arXiv 2301.00774, section 4 (the contexts).
    """
    tokens, stride = np.asarray(tokens), window if stride is None else stride
    _check(tokens, window, stride, batch_size, keep_tail)
    rows, scored = _windows(tokens.astype(np.int32), window, stride, keep_tail)
    cost = jax.jit(lambda p, x: _costs(fn(p, x), x))
    nats: list[float] = []
    for first in range(0, len(rows), batch_size):
        batch, own = rows[first : first + batch_size], scored[first : first + batch_size]
        short = batch_size - len(batch)
        found = np.asarray(cost(params, jnp.asarray(np.pad(batch, ((0, short), (0, 0))))))
        nats += found[: len(batch)][own].astype(np.float64).tolist()
    total = math.fsum(nats)
    if not math.isfinite(total):
        raise EvaluationError(
            "A token's cost is not finite: the logits are not (look at the parameters), or a token lies beyond the "
            f"vocabulary (the largest is {int(tokens.max())})."
        )
    mean = total / len(nats)
    return Perplexity(math.exp(mean) if mean < 700 else math.inf, total, len(nats), len(rows))


def _check(tokens: np.ndarray, window: int, stride: int, batch_size: int, keep_tail: bool) -> None:
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise EvaluationError(
            f"tokens are {tokens.dtype}{list(tokens.shape)}: give one row of whole numbers."
        )
    if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < 2**31:
        raise EvaluationError(
            f"tokens lie in [{tokens.min()}, {tokens.max()}]: they are numbers from 0 on, in int32."
        )
    require_kind(keep_tail, bool, "keep_tail", "True", EvaluationError)
    require_numbers(EvaluationError, least=2, whole=True, window=window)
    require_numbers(EvaluationError, least=1, whole=True, stride=stride, batch_size=batch_size)
    if stride > window:
        raise EvaluationError(
            f"stride={stride!r}: it is in [1, {window}], or tokens between windows are not scored."
        )
    if len(tokens) < (2 if keep_tail else window):
        raise EvaluationError(f"{len(tokens)} tokens do not fill one window of {window}.")


def _windows(tokens: np.ndarray, window: int, stride: int, keep_tail: bool) -> tuple[np.ndarray, np.ndarray]:
    """The contexts, and which token of each they score; both (windows, window)."""
    rows, scored, reached = [], [], 0
    for first in range(0, len(tokens), stride):
        last = min(first + window, len(tokens))
        if last - first < window and not (keep_tail and last > reached and last - first > 1):
            break
        places = np.arange(first, first + window)
        rows.append(np.pad(tokens[first:last], (0, window - (last - first))))
        scored.append((places >= max(reached, first + 1)) & (places < last))
        reached = last
    return np.stack(rows), np.stack(scored)


def _costs(logits: Array, tokens: Array) -> Array:
    """−ln p of every token given those before it; 0 for the first."""
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 3 or shape[:2] != tokens.shape:
        what = type(logits).__name__ if shape is None else shape
        raise EvaluationError(
            f"The function gives {what} for tokens {tokens.shape}; it should give (rows, window, vocabulary)."
        )
    log_p = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
    own = jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.pad(-own, ((0, 0), (1, 0)))


class Agreement(NamedTuple):
    """How close a pruned model's results are to the dense one's.

    Attributes:
      top1: share of rows of which both give the same class the highest score.
      kl: mean Kullback-Leibler divergence KL(dense ‖ pruned) in nats, of the softmax of both.
      cosine: mean cosine between the rows.
      rows: how many rows there were.
    """

    top1: float
    kl: float
    cosine: float
    rows: int


def agreement(
    fn: Callable[..., Any], dense: Params, pruned: Params, batches: Iterable[Any], *, logits: bool = True
) -> Agreement:
    """Compares two sets of parameters of one function, without labels.

    Args:
      fn: ``fn(params, *inputs)`` that gives one array, its last axis the classes; all other axes number rows.
      dense: the parameters to compare with.
      pruned: the other ones.
      batches: tuples of inputs.
      logits: whether the results are logits; False where they are probabilities already.

    Returns:
      The agreement.

    Raises:
      EvaluationError: no batch, results that are not finite or no array with an axis.

    Example:
      >>> fn = lambda p, x: x @ p["w"]
      >>> eye = {"w": jnp.eye(2)}
      >>> agreement(fn, eye, {"w": jnp.array([[1.0, 0.0], [2.0, 1.0]])}, [jnp.eye(2)]).top1
      0.5
    """
    require_kind(logits, bool, "logits", "True", EvaluationError)

    @jax.jit
    def compare(dense: Params, pruned: Params, inputs: tuple[Any, ...]) -> tuple[Array, ...]:
        a, b = (fn(p, *inputs) for p in (dense, pruned))
        shapes = [getattr(x, "shape", None) for x in (a, b)]
        if not shapes[0] or shapes[0] != shapes[1]:
            what = (
                "a scalar"
                if shapes[0] == ()
                else f"{type(a).__name__}s of shapes {shapes[0]} and {shapes[1]}"
            )
            raise EvaluationError(
                f"The function gives {what}; its results must be of one shape, the last axis the classes."
            )
        a, b = (x.reshape(-1, x.shape[-1]).astype(jnp.float32) for x in (a, b))
        log_a, log_b = (jax.nn.log_softmax(x) if logits else jnp.log(jnp.maximum(x, 1e-30)) for x in (a, b))
        size = jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1)
        return (
            jnp.argmax(a, 1) == jnp.argmax(b, 1),
            jnp.sum(jnp.exp(log_a) * (log_a - log_b), 1),
            jnp.sum(a * b, 1) / jnp.maximum(size, 1e-30),
        )

    columns: list[list[np.ndarray]] = [[], [], []]
    for batch in batches:
        for column, values in zip(columns, compare(dense, pruned, jaxprs.as_tuple(batch)), strict=True):
            column.append(np.asarray(values, np.float64))
    if not sum(map(len, columns[0])):
        raise EvaluationError(
            "agreement got no batch or no row. Pass an iterable of inputs that is not used up."
        )
    top1, kl, cosine = (np.concatenate(column) for column in columns)
    if not np.all(np.isfinite(kl)):
        raise EvaluationError("The results of one of the models are not finite.")
    return Agreement(float(top1.mean()), float(kl.mean()), float(cosine.mean()), len(top1))
