"""Script: prunes a network of more than 2³¹ bfloat16 weights over all its leaves at once; needs some 12 GB."""

import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import sparsejax
from tests.distributed.launch import save

SPARSITY = 0.4
_ROWS, _COLS, _LEAVES = 1 << 15, (1 << 14) + 77, 4  # 4 · 539 M weights


@jax.jit
def _leaf(seed: jax.Array) -> jax.Array:
    """Weights in bfloat16 whose magnitudes take some thousand values: ties by the hundred thousand."""
    rows = jax.lax.broadcasted_iota(jnp.uint32, (_ROWS, _COLS), 0)
    columns = jax.lax.broadcasted_iota(jnp.uint32, (_ROWS, _COLS), 1)
    mixed = (rows * jnp.uint32(2654435761) + columns * jnp.uint32(40503) + seed) * jnp.uint32(2246822519)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(3266489917)
    return ((mixed >> 8).astype(jnp.float32) / 2.0**24 - 0.5).astype(jnp.bfloat16)


_BLOCKS = 64  # of rows: what is checked at a time, so that checking needs no memory


@jax.jit
def _bounds(weights: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The lowest kept and the highest dropped magnitude of each block."""

    def block(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        score = jnp.abs(pair[0]).astype(jnp.float32)
        return jnp.min(score, where=pair[1], initial=jnp.inf), jnp.max(
            score, where=~pair[1], initial=-jnp.inf
        )

    return jax.lax.map(block, (weights.reshape(_BLOCKS, -1), mask.reshape(_BLOCKS, -1)))


@jax.jit
def _ties(weights: jax.Array, mask: jax.Array, threshold: jax.Array) -> tuple[jax.Array, ...]:
    """Of each block the kept and all weights at the threshold, and whether the kept ones come first."""

    def block(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        tie = jnp.abs(pair[0]).astype(jnp.float32) == threshold
        index = jnp.arange(tie.size)
        last_kept = jnp.max(index, where=tie & pair[1], initial=-1)
        first_dropped = jnp.min(index, where=tie & ~pair[1], initial=tie.size)
        return jnp.sum(tie & pair[1]), jnp.sum(tie), last_kept < first_dropped

    return jax.lax.map(block, (weights.reshape(_BLOCKS, -1), mask.reshape(_BLOCKS, -1)))


def main() -> None:
    """Prunes, checks, saves the findings."""
    params = {f"layer_{i}/kernel": _leaf(jnp.uint32(i + 1)) for i in range(_LEAVES)}

    def prune(params: dict) -> dict:
        return sparsejax.prune_params(
            params, sparsity=SPARSITY, distribution=sparsejax.distributions.global_threshold()
        )[1]

    began = time.perf_counter()
    compiled = jax.jit(prune).lower(params).compile()
    print(f"compiled in {time.perf_counter() - began:.1f} s", flush=True)
    began = time.perf_counter()
    masks = jax.block_until_ready(compiled(params))
    print(f"pruned in {time.perf_counter() - began:.1f} s", flush=True)
    bounds = [_bounds(params[path], masks[path]) for path in params]
    threshold = jnp.min(jnp.array([low for low, _ in bounds]))
    kept, ties, ordered = (
        np.concatenate([np.asarray(part) for part in parts])
        for parts in zip(*(_ties(params[path], masks[path], threshold) for path in params), strict=True)
    )
    facts = {
        "weights": sum(leaf.size for leaf in params.values()),
        "sparsity": SPARSITY,
        "kept": sum(int(jnp.sum(mask)) for mask in masks.values()),
        "lowest_kept": float(threshold),
        "highest_dropped": max(float(jnp.max(high)) for _, high in bounds),
        "kept_ties": kept.tolist(),
        "ties": ties.tolist(),
        "ties_in_order": bool(ordered.all()),
    }
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB", flush=True)
    save(sys.argv[1], facts, {})


if __name__ == "__main__":
    main()
