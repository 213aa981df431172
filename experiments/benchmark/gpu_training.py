"""Training steps of a GPT in live blocks beside its dense form, in bfloat16 with float32 weights, at real sizes.

Without the runner, whose configurations need packages that a machine with a GPU may not have.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sparsejax
from experiments.benchmark.harness import Row, interleaved
from experiments.data.sources import read_part
from experiments.models.gpt import GPT
from experiments.run.compute_dtype import in_dtype
from sparsejax.interop.flax import stateful
from sparsejax.kernels import start, train_compressed, with_probes


class Size(NamedTuple):
    """A byte-level GPT and its batch."""

    width: int
    depth: int
    heads: int
    context: int
    examples: int
    block: int


FULL, QUICK = Size(2048, 4, 16, 512, 16, 128), Size(32, 1, 2, 16, 2, 16)
#: Steps from one mask update to the next, over which its time is shared out.
EVERY = 100


class Program:
    """A compiled training step that keeps its state; `at` gives the call for a step of that number."""

    def __init__(self, step: Callable[..., Any], state: Any, tokens: jax.Array) -> None:
        self.state, self._tokens = state, tokens
        self._lower = lambda: jax.jit(step, donate_argnums=0).lower(state, tokens, jnp.int32(0))
        self._compiled: Any = None

    def compile(self) -> None:
        """Traces, lowers and compiles; a second call does nothing."""
        if self._compiled is None:
            self._compiled = self._lower().compile()

    def at(self, number: int) -> Callable[[], jax.Array]:
        """The case of a step of that number."""

        def call() -> jax.Array:
            self.compile()
            self.state, loss = self._compiled(self.state, self._tokens, jnp.int32(number))
            return jax.block_until_ready((self.state, loss))[1]

        call.compile = self.compile
        return call


def rows(sparsity: float, quick: bool) -> Iterator[Row]:
    """Times plain steps and mask updates of RigL on live blocks beside the dense step.

    Args:
      sparsity: of the blocks of every kernel but the embedding.
      quick: a tiny model.

    Yields:
      Rows with ``speedup`` over dense (of blocks with the update's share), ``tokens_per_second``, and
      ``relative_memory`` of parameters and moments.
    """
    size = QUICK if quick else FULL
    tokens, (loss, params) = _tokens(size), _model(size)
    dense, blocks = _dense(loss, params, tokens), _blocks(loss, params, tokens, size, sparsity)
    held = {name: _bytes(program.state) for name, program in (("dense", dense), ("blocks", blocks))}
    # Step 1 changes no mask, step EVERY does.
    cases = {"dense": dense.at(1), "blocks": blocks.at(1), "blocks, mask update": blocks.at(EVERY)}
    found = interleaved(cases, "dense", repeats=3 if quick else 9, min_seconds=0.0 if quick else 1.0)
    ratios = {row["case"]: row["ratio"] for row in found}
    shared = ratios["blocks"] + (ratios["blocks, mask update"] - ratios["blocks"]) / EVERY
    for row in found:
        row |= {"what": "training step", "width": size.width, "sparsity": sparsity}
        row["speedup"] = round(1 / (shared if row["case"] == "blocks" else row["ratio"]), 3)
        row["tokens_per_second"] = round(size.context * size.examples / row["median_ms"] * 1e3)
        row["relative_memory"] = round(held[row["case"].split(",")[0]] / held["dense"], 3)
        yield row


def _model(size: Size) -> tuple[Callable[..., jax.Array], Any]:
    model = GPT(
        vocabulary=256, context=size.context, width=size.width, depth=size.depth, heads=size.heads,
        mlp_dim=4 * size.width, sparse_compute="blocks", rngs=nnx.Rngs(0),
    )  # fmt: skip
    made = stateful(model)
    apply = in_dtype(made.apply, "bfloat16")

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        logits = apply(params, made.batch_stats, tokens[:, :-1], True)[0].astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    return loss, made.params


def _tokens(size: Size) -> jax.Array:
    """The first bytes of Python's standard library."""
    wanted = size.examples * (size.context + 1)
    text = b"".join(read_part("code")["train"].values())[:wanted]
    return jnp.asarray(np.frombuffer(text, np.uint8).reshape(size.examples, -1).astype(np.int32))


def _dense(loss: Callable[..., jax.Array], params: Any, tokens: jax.Array) -> Program:
    tx = optax.adamw(1e-3)

    def step(state: Any, tokens: jax.Array, number: jax.Array) -> Any:
        del number
        params, moments = state
        value, grads = jax.value_and_grad(loss)(params, tokens)
        updates, moments = tx.update(grads, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    return Program(step, jax.tree.map(jnp.array, (params, tx.init(params))), tokens)


def _blocks(
    loss: Callable[..., jax.Array], params: Any, tokens: jax.Array, size: Size, sparsity: float
) -> Program:
    recipe = functools.partial(
        sparsejax.rigl, sparsity=sparsity, total_steps=100 * EVERY, update_every=EVERY, key=jax.random.key(0)
    )
    tx = train_compressed(optax.adamw(1e-3), recipe, block=(size.block, size.block))

    def step(state: Any, tokens: jax.Array, number: jax.Array) -> Any:
        params, moments = state
        value, grads = jax.value_and_grad(loss, allow_int=True)(params, tokens)
        dense = lambda: jax.grad(loss, allow_int=True)(with_probes(params), tokens)  # noqa: E731
        updates, moments = tx.update(grads, moments, params, step=number, dense_grads_fn=dense)
        return (optax.apply_updates(params, updates), moments), value

    return Program(step, start(tx, params), tokens)


def _bytes(state: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))
