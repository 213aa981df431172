"""Perplexity token by token as the definition says, over windows, strides and batch sizes; agreement by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import EvaluationError
from sparsejax.post_training import agreement, perplexity
from tests.tracing.functions import normal

TOKENS = np.random.default_rng(0).integers(0, 11, 103)
PARAMS = {"embedding": normal(11, 6), "out": normal(6, 11)}


def model(p, tokens):
    """Causal: a decayed mean of what came before."""
    x = p["embedding"][tokens]
    y = jax.lax.associative_scan(jnp.add, x * 0.9 ** jnp.arange(x.shape[1])[:, None], axis=1)
    return y @ p["out"]


def in_numpy(p, tokens):
    """The same in float64, (…, length) to (…, length, 11)."""
    x = np.asarray(p["embedding"], np.float64)[tokens]
    decay = 0.9 ** np.arange(x.shape[-2])[:, None]
    return np.cumsum(x * decay, axis=-2) @ np.asarray(p["out"], np.float64)


def by_definition(window, stride, tail):
    """The published loop over contexts, one token at a time in float64."""
    nats, count, reached = 0.0, 0, 0
    for first in range(0, len(TOKENS), stride):
        text = TOKENS[first : first + window]
        if len(text) < window and not (tail and first + len(text) > reached and len(text) > 1):
            break
        logits = in_numpy(PARAMS, text)
        for place in range(1, len(text)):
            if first + place >= reached:
                row = logits[place - 1]
                nats += np.log(np.sum(np.exp(row - row.max()))) + row.max() - row[text[place]]
                count += 1
        reached = first + len(text)
    return nats, count


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize(("window", "stride"), [(10, 10), (10, 3), (103, 103), (16, 1), (50, 49)])
def test_it_is_what_the_definition_says(window, stride, tail):
    found = perplexity(model, PARAMS, TOKENS, window, stride, keep_tail=tail)
    nats, count = by_definition(window, stride, tail)
    assert found.tokens == count
    np.testing.assert_allclose(found.nats, nats, rtol=1e-5)
    np.testing.assert_allclose(found.perplexity, math.exp(nats / count), rtol=1e-5)


def test_every_token_but_the_first_is_scored_once_with_overlap_and_tail():
    assert perplexity(model, PARAMS, TOKENS, 10, 4, keep_tail=True).tokens == len(TOKENS) - 1
    assert perplexity(model, PARAMS, TOKENS, 10).tokens == 10 * 9


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_the_batch_size_changes_nothing(batch_size):
    found = perplexity(model, PARAMS, TOKENS, 10, 7, batch_size=batch_size)
    expected = perplexity(model, PARAMS, TOKENS, 10, 7, batch_size=5)
    assert (found.tokens, found.windows) == (expected.tokens, expected.windows)
    np.testing.assert_allclose(found.nats, expected.nats, rtol=1e-6)


def test_bits_per_byte():
    found = perplexity(lambda p, x: jnp.zeros((*x.shape, 256)), {}, TOKENS, 10)
    np.testing.assert_allclose(found.bits_per_byte(), 8.0, rtol=1e-6)
    np.testing.assert_allclose(found.bits_per_byte(4 * found.tokens), 2.0, rtol=1e-6)
    with pytest.raises(EvaluationError, match="at least one byte"):
        found.bits_per_byte(0)


def test_bad_input_is_refused():
    for bad, text in [
        ({"tokens": TOKENS[None]}, "one row of whole numbers"),
        ({"tokens": TOKENS * 1.0}, "one row of whole numbers"),
        ({"tokens": np.where(TOKENS == 3, -1, TOKENS)}, r"tokens lie in \[-1, 10\]"),
        ({"tokens": TOKENS + 2**32}, "in int32"),
        ({"tokens": TOKENS + 8}, "beyond the vocabulary.*largest is 18"),
        ({"fn": lambda p, x: (model(p, x),)}, r"gives tuple .* should give \(rows, window"),
        ({"window": 104}, "do not fill one window"),
        ({"window": 1}, "at least 2"),
        ({"stride": 11}, "in .1, 10."),
        ({"batch_size": 0}, "at least 1"),
        ({"fn": lambda p, x: model(p, x)[:, 0]}, r"should give \(rows, window"),
        ({"fn": lambda p, x: model(p, x) * jnp.nan}, "not finite"),
    ]:
        call = {"fn": model, "params": PARAMS, "tokens": TOKENS, "window": 10, **bad}
        with pytest.raises(EvaluationError, match=text):
            perplexity(**call)


def test_agreement_is_what_it_says():
    pruned = {**PARAMS, "out": jnp.where(jnp.abs(PARAMS["out"]) > 0.4, PARAMS["out"], 0)}
    batches = [TOKENS[:20].reshape(2, 10), TOKENS[20:50].reshape(3, 10)]
    found = agreement(model, PARAMS, pruned, batches)
    a, b = (np.concatenate([in_numpy(p, x).reshape(-1, 11) for x in batches]) for p in (PARAMS, pruned))
    pa, pb = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a, b))
    assert found.rows == 50
    assert found.top1 == np.mean(a.argmax(1) == b.argmax(1)) < 1
    np.testing.assert_allclose(found.kl, np.mean(np.sum(pa * np.log(pa / pb), 1)), rtol=1e-4)
    cosine = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(found.cosine, cosine.mean(), rtol=1e-5)

    def probabilities(p, x):
        return jax.nn.softmax(model(p, x))

    same = agreement(probabilities, PARAMS, pruned, batches, logits=False)
    np.testing.assert_allclose(same.kl, found.kl, rtol=1e-4)


def test_agreement_refuses_what_it_cannot_compare():
    with pytest.raises(EvaluationError, match="no batch"):
        agreement(model, PARAMS, PARAMS, [])
    with pytest.raises(EvaluationError, match="no batch or no row"):
        agreement(model, PARAMS, PARAMS, [TOKENS[None, :0]])
    wide = {**PARAMS, "out": normal(6, 12)}
    with pytest.raises(EvaluationError, match="of one shape"):
        agreement(model, PARAMS, wide, [TOKENS[None]])
    with pytest.raises(EvaluationError, match="tuple"):
        agreement(lambda p, x: (model(p, x),), PARAMS, PARAMS, [TOKENS[None]])
    with pytest.raises(EvaluationError, match="scalar"):
        agreement(lambda p, x: jnp.sum(model(p, x)), PARAMS, PARAMS, [TOKENS[None]])
    with pytest.raises(EvaluationError, match="not finite"):
        agreement(lambda p, x: model(p, x) * jnp.nan, PARAMS, PARAMS, [TOKENS[None]])
