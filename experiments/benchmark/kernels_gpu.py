"""The kernels' cases of `make gpu`: exactness at real sizes, the target table with its peers, training, SparseGPT."""

import dataclasses
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import kernels_training
from experiments.benchmark.harness import Jitted, Row, interleaved
from sparsejax.kernels import BlockSparse, block_grad_scores, from_dense, matmul, pack_bitmap
from sparsejax.kernels.sparse_tensor_cores import COLUMNS, DEPTH, ROWS, multiply_tile, pack_metadata
from sparsejax.post_training import solve_sparsegpt

Case = tuple[str, str, Callable[[], Iterable[Row]]]

#: Error allowed beside float32 products of the same bfloat16 numbers.
TOLERANCE = 1e-2


def cases(quick: bool) -> Iterator[Case]:
    """In the order of their weight: what was promised comes first."""
    widths = (256,) if quick else (4096, 8192)
    sparsities = (0.75,) if quick else (0.8, 0.9, 0.95)
    for width in widths:
        yield "kernels check", f"width {width}", lambda width=width: check_products(width, quick)
    for width in reversed(widths):
        for sparsity in sparsities:
            yield "kernels", f"{width}, {sparsity:.0%}", lambda w=width, s=sparsity: block_rows(w, s, quick)
    yield "kernels", "bitmap decode", lambda: decode_rows(quick)
    yield "kernels", "2:4 on sparse tensor cores", sparse_tensor_core_rows
    yield "kernels", "torch BSR and 2:4", lambda: torch_rows(quick)
    for sparsity in sparsities:
        yield (
            "block-sparse GPT",
            f"{sparsity:.0%}",
            lambda s=sparsity: kernels_training.run("quick" if quick else "full", s, feed_forward_only=False),
        )
    yield "SparseGPT", "one layer", lambda: sparsegpt_rows(256 if quick else 4096)


def check_products(width: int, quick: bool) -> Iterator[Row]:
    """The three products and the scores of dead blocks beside dense ones, with NaN in the dead slots."""
    block = 64 if quick else 128
    w, dense, x, g = _problem(width, block, 0.8, spare=3)
    filled = jnp.where(w.topology.is_live[:, None, None], w.data, jnp.nan).astype(w.dtype)
    w = dataclasses.replace(w, data=filled)

    def both(x: jax.Array, data: jax.Array) -> Any:
        y, pull = jax.vjp(lambda x, data: matmul(x, dataclasses.replace(w, data=data)), x, data)
        return y, *pull(g)

    y, dx, dw = jax.jit(both)(x, w.data)
    rows, columns = np.asarray(w.topology.rows), np.asarray(w.topology.columns)
    live = np.asarray(w.topology.is_live)
    gradient = _wide(x.T, g).reshape(w.grid[0], block, w.grid[1], block).transpose(0, 2, 1, 3)
    expected = {
        "dsd": (y, _wide(x, dense)),
        "dsd_t": (dx, _wide(g, dense.T)),
        "sdd": (dw[live], gradient[rows[live], columns[live]]),
        "scores": (block_grad_scores(x, g, (block, block)), jnp.mean(jnp.abs(gradient), axis=(2, 3))),
    }
    for name, (value, right) in expected.items():
        off = float(jnp.linalg.norm(value.astype(jnp.float32) - right) / jnp.linalg.norm(right))
        if not off < TOLERANCE:
            raise RuntimeError(f"{name} of width {width} is off by {off:.2g}; {TOLERANCE} is allowed.")
        yield {"case": f"{name}, width {width}", "relative_error": float(f"{off:.2g}")}


def block_rows(width: int, sparsity: float, quick: bool) -> list[Row]:
    """Forward, and forward with both gradients, beside the dense product of the vendor's library."""
    block = 64 if quick else 128
    w, dense, x, g = _problem(width, block, sparsity)

    def gradients(product: Callable[..., jax.Array], x: jax.Array, weights: jax.Array) -> Any:
        y, pull = jax.vjp(product, x, weights)
        return y, pull(g)

    sparse = lambda x, data: matmul(x, dataclasses.replace(w, data=data))  # noqa: E731
    found = []
    for what, wrap in (
        ("forward", lambda f: f),
        ("forward and backward", lambda f: lambda *a: gradients(f, *a)),
    ):
        pairs = {"dense": Jitted(wrap(jnp.matmul), x, dense), "blocks": Jitted(wrap(sparse), x, w.data)}
        for row in interleaved(pairs, "dense", repeats=3 if quick else 9, min_seconds=0.0 if quick else 1.0):
            speedup = round(1 / row["ratio"], 3)
            found.append(
                {"what": what, "width": width, "sparsity": sparsity, **row, "speedup": speedup,
                 "share_of_ideal": round(speedup * (1 - sparsity), 3)}
            )  # fmt: skip
    return found


def decode_rows(quick: bool) -> list[Row]:
    """One row of activations, where bytes are the limit: the bitmap beside the dense matrix."""
    width, found = (256 if quick else 8192), []
    for sparsity, limit in ((0.5, 1.78), (0.7, 2.76)):
        rng = np.random.default_rng(0)
        dense = rng.standard_normal((width, width), np.float32) * (rng.random((width, width)) >= sparsity)
        dense, x = jnp.asarray(dense, jnp.bfloat16), jnp.ones((1, width), jnp.bfloat16)
        call = lambda x, w: x @ w  # noqa: E731
        pairs = {"dense": Jitted(call, x, dense), "bitmap": Jitted(call, x, pack_bitmap(dense))}
        for row in interleaved(pairs, "dense", repeats=3 if quick else 9, min_seconds=0.0 if quick else 1.0):
            found.append({"what": "decode", "sparsity": sparsity, **row, "limit_of_bytes": limit})
    return found


def sparse_tensor_core_rows() -> list[Row]:
    """Whether the one tile of 2:4 agrees with its dense product: the metadata's order is unverified until it does."""
    if jax.default_backend() != "gpu":
        return [{"case": "2:4", "note": "not run: no GPU"}]
    rng = np.random.default_rng(0)
    places = np.sort(np.argsort(rng.random((ROWS, DEPTH // 4, 4)), -1)[..., :2], -1)
    values = rng.standard_normal((ROWS, DEPTH // 4, 2)).astype(np.float32)
    a = np.zeros((ROWS, DEPTH // 4, 4), np.float32)
    np.put_along_axis(a, places, values, -1)
    b = jnp.asarray(rng.standard_normal((DEPTH, COLUMNS)), jnp.bfloat16)
    packed = jnp.asarray(values.reshape(ROWS, -1), jnp.bfloat16)
    y = jax.jit(multiply_tile)(packed, b, jnp.asarray(pack_metadata(places))).astype(jnp.float32)
    right = _wide(jnp.asarray(a.reshape(ROWS, DEPTH), jnp.bfloat16), b)
    off = float(jnp.linalg.norm(y - right) / jnp.linalg.norm(right))
    return [{"case": "2:4, one tile", "relative_error": float(f"{off:.2g}"), "verified": off < TOLERANCE}]


def torch_rows(quick: bool) -> list[Row]:
    """The peers: torch's BSR and 2:4 beside its own dense product, on the same card."""
    if importlib.util.find_spec("torch") is None:
        return [{"case": "torch", "note": "not run: torch is not installed"}]
    import torch

    if not torch.cuda.is_available():
        return [{"case": "torch", "note": "not run: torch sees no GPU"}]
    width, found = (512 if quick else 8192), []
    x = torch.randn(width, width, device="cuda", dtype=torch.bfloat16)
    pair = torch.tensor([0, 0, 1, 1], device="cuda", dtype=torch.bool).tile(width, width // 4)
    semi = torch.randn(width, width, device="cuda", dtype=torch.bfloat16) * pair
    blocks = (torch.rand(width // 128, width // 128, device="cuda") < 0.1).repeat_interleave(128, 0)
    bsr = torch.randn(width, width, device="cuda", dtype=torch.bfloat16) * blocks.repeat_interleave(128, 1)
    linear = torch.nn.functional.linear
    packed, stored = torch.sparse.to_sparse_semi_structured(semi), bsr.to_sparse_bsr((128, 128))
    calls = {
        "dense": lambda: linear(x, semi),
        "2:4": lambda: linear(x, packed),
        "BSR, 90 %": lambda: linear(x, stored),
    }
    times = {name: _torch_seconds(torch, call) for name, call in calls.items()}
    for name, seconds in times.items():
        speedup = round(times["dense"] / seconds, 3)
        found.append(
            {"case": f"torch, {name}", "width": width, "median_ms": seconds * 1e3, "speedup": speedup}
        )
    return found


def _torch_seconds(torch: Any, call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(9):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def sparsegpt_rows(width: int) -> list[Row]:
    """Seconds of SparseGPT on one square layer, without compilation."""
    weights = jax.random.normal(jax.random.key(0), (width, width))
    inputs = jax.random.normal(jax.random.key(1), (2 * width, width))
    gram = inputs.T @ inputs
    solve = lambda: solve_sparsegpt(weights, gram, sparsity=0.5)  # noqa: E731
    jax.block_until_ready(jax.tree.leaves(solve()))
    start = time.perf_counter()
    jax.block_until_ready(jax.tree.leaves(solve()))
    return [{"case": f"width {width}, 50 %", "median_ms": round((time.perf_counter() - start) * 1e3, 1)}]


def _problem(
    width: int, block: int, sparsity: float, spare: int = 0
) -> tuple[BlockSparse, jax.Array, jax.Array, jax.Array]:
    """A matrix of which an exact share of the blocks is live, its dense twin, inputs and a gradient; bfloat16."""
    grid = width // block
    kept = np.random.default_rng(0).permutation(grid * grid) < round((1 - sparsity) * grid * grid)
    mask = jnp.asarray(kept.reshape(grid, grid))
    drawn, x, g = (jax.random.normal(jax.random.key(i), (width, width), jnp.bfloat16) for i in range(3))
    dense = drawn * jnp.repeat(jnp.repeat(mask, block, 0), block, 1).astype(jnp.bfloat16)
    return from_dense(dense, mask, block=(block, block), capacity=int(kept.sum()) + spare), dense, x, g


def _wide(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)
