"""Decoding with a cache gives the logits of the whole sequence, also of models that lost heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sparsejax
from experiments.errors import ConfigError
from experiments.models.decoding import decode_step, empty_cache
from experiments.models.gpt import GPT
from experiments.models.rebuilding import rebuild
from sparsejax.interop.flax import stateful


def _model(**options):
    sizes = {"vocabulary": 11, "context": 9, "width": 16, "depth": 2, "heads": 4, "mlp_dim": 24}
    return GPT(**{**sizes, **options}, rngs=nnx.Rngs(0))


def _lost_heads():
    model, tokens = _model(), jnp.zeros((1, 5), jnp.int32)
    module = stateful(model)
    fn = lambda v, x: module.apply(v["params"], v["batch_stats"], x, train=False)[0]  # noqa: E731
    variables = {"params": module.params, "batch_stats": module.batch_stats}
    groups = sparsejax.structured.select_groups(
        sparsejax.prunable_groups(fn, variables, tokens), kinds=("head",)
    )
    first, second = groups
    keep = {first: np.array([True, False, True, True]), second: np.array([False, True, False, False])}
    _, small = sparsejax.shrink(fn, variables, tokens, groups, keep)
    return rebuild(model, small["params"], None)


MODELS = {
    "rotary": _model,
    "learned": lambda: _model(positions="learned"),
    "grouped": lambda: _model(kv_heads=2, mlp="swiglu", norm="rms", tied=False, bias=False),
    "scan": lambda: _model(scan=True),
    "lost_heads": _lost_heads,
}


@pytest.mark.parametrize("name", MODELS)
def test_step_by_step_is_the_whole_sequence(name):
    model = MODELS[name]()
    tokens = jax.random.randint(jax.random.key(1), (3, 7), 0, 11)
    whole = model(tokens)
    graphdef, state = nnx.split(model)
    step = jax.jit(lambda state, tokens, cache: decode_step(nnx.merge(graphdef, state), tokens, cache))
    cache = empty_cache(model, 3, 9)
    for place in range(7):
        logits, cache = step(state, tokens[:, place], cache)
        np.testing.assert_allclose(logits, whole[:, place], rtol=2e-4, atol=2e-5)
    heads = [key.shape[2] for key in cache.keys]
    assert heads == {"grouped": [2, 2], "lost_heads": [3, 1]}.get(name, [4, 4])


def test_more_tokens_than_the_context_are_refused():
    with pytest.raises(ConfigError, match="10 tokens were given, but context=9"):
        empty_cache(_model(), 1, 10)
