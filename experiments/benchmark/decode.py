"""What a GPT's lost attention heads save while it writes: bytes of keys and values a token, and time of a token."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import sparsejax
from experiments.benchmark.harness import Jitted, Row, interleaved
from experiments.compress.recipe.network import kv_bytes
from experiments.models.decoding import Cache, decode_step, empty_cache
from experiments.models.gpt import GPT
from experiments.models.rebuilding import rebuild
from sparsejax.interop.flax import stateful

_SHARES = (0.0, 0.25, 0.5, 0.75)  # of the heads that go
_STEPS = 8  # tokens of a call: a loop updates its cache in place, where one step would copy it


def run(quick: bool) -> list[Row]:
    """Times eight tokens of 1 and 8 sequences, each with a half-full and a full cache, for four shares of heads.

    Args:
      quick: a tiny model.

    Returns:
      Rows; ``ratio`` to the model with all heads, of the same round; ``kv_bytes`` a token, and ``kv_ratio``.
    """
    width, depth, heads, length = (16, 1, 4, 16) if quick else (512, 4, 8, 512)
    sizes: dict[str, Any] = {"width": width, "depth": depth, "heads": heads, "mlp_dim": 4 * width}
    model = GPT(vocabulary=256, context=length, **sizes, rngs=nnx.Rngs(0))
    models = {f"{share:.0%} of heads gone": _without_heads(model, share) for share in _SHARES}
    rows = []
    for batch in (1, 8):
        for filled in (length // 2, length - _STEPS):
            cases = {name: _case(made, batch, length, filled) for name, made in models.items()}
            base = next(iter(cases))
            found = interleaved(cases, base, repeats=3 if quick else 15, min_seconds=0.0 if quick else 2.0)
            for row in found:
                size = kv_bytes(nnx.to_pure_dict(nnx.state(models[row["case"]])))
                row |= {
                    "model": f"GPT {width} x {depth}, batch {batch}, {filled} tokens before",
                    "kv_bytes": size,
                }
            rows += found
    whole = rows[0]["kv_bytes"]
    return [{**row, "kv_ratio": row["kv_bytes"] / whole} for row in rows]


def _without_heads(model: GPT, share: float) -> GPT:
    if not share:
        return model
    module, tokens = stateful(model), jnp.zeros((1, 8), jnp.int32)
    fn = lambda v, x: module.apply(v["params"], v["batch_stats"], x, train=False)[0]  # noqa: E731
    variables = {"params": module.params, "batch_stats": module.batch_stats}
    found = sparsejax.prune_structured(fn, variables, tokens, channel_ratio=share, kinds=("head",))
    _, small = sparsejax.shrink(fn, variables, tokens, found.groups, found.keep)
    return rebuild(model, small["params"], None)


def _case(model: GPT, batch: int, length: int, filled: int) -> Jitted:
    graphdef, state = nnx.split(model)
    cache = empty_cache(model, batch, length)._replace(position=jnp.asarray(filled, jnp.int32))

    def write(state: Any, tokens: jax.Array, cache: Cache) -> jax.Array:
        def step(carry: tuple[jax.Array, Cache], _: None) -> tuple[tuple[jax.Array, Cache], None]:
            logits, cache = decode_step(nnx.merge(graphdef, state), *carry)
            return (jnp.argmax(logits, -1).astype(jnp.int32), cache), None

        return jax.lax.scan(step, (tokens, cache), length=_STEPS)[0][0]

    return Jitted(write, state, jnp.zeros((batch,), jnp.int32), cache)
