"""The kernels' cases of `make gpu`: exactness at real sizes, the target table with its peers, training, SparseGPT."""

import dataclasses
import functools
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import gpu_training
from experiments.benchmark.harness import Jitted, Row, interleaved
from sparsejax.kernels import (
    BlockSparse,
    block_grad_scores,
    from_dense,
    matmul,
    pack_bitmap,
    pack_deltas,
    pack_n_m,
    pack_semi_structured,
    sparse_tensor_cores,
)
from sparsejax.kernels.mosaic_gpu import is_hopper
from sparsejax.kernels.semi_structured import FLAG
from sparsejax.post_training import solve_sparsegpt

Case = tuple[str, str, Callable[[], Iterable[Row]]]

#: Bytes a second of memory, by what the makers say.
BANDWIDTH = {"H100": 3.35e12, "H200": 4.8e12, "v5 lite": 0.82e12, "v6 lite": 1.64e12}
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
    yield "kernels", "decode", lambda: decode_rows(quick)
    yield "kernels", "2:4 on sparse tensor cores", lambda: sparse_tensor_core_rows(quick)
    yield "kernels", "torch BSR and 2:4", lambda: torch_rows(quick)
    for sparsity in sparsities:
        yield "block-sparse GPT", f"{sparsity:.0%}", lambda s=sparsity: gpu_training.rows(s, quick)
    yield "SparseGPT", "a block of LLaMA-2-7B", lambda: sparsegpt_rows(quick)


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
        off = _off(value, right)
        if not off < TOLERANCE:
            raise RuntimeError(f"{name} of width {width} is off by {off:.2g}; {TOLERANCE} is allowed.")
        yield {"case": f"{name}, width {width}", "relative_error": float(f"{off:.2g}")}


def block_rows(width: int, sparsity: float, quick: bool) -> Iterator[Row]:
    """Each product and all of a step, beside the dense products of the vendor's library.

    ``share_of_ideal`` is of 1 / density; ``share_of_roof`` of what the memory allows as well: activations are read and
    written whole. The dense product's own rate is taken for the arithmetic, the maker's number for the memory.
    """
    block = 64 if quick else 128
    w, dense, x, g = _problem(width, block, sparsity)
    sparse = lambda x, data: matmul(x, dataclasses.replace(w, data=data))  # noqa: E731
    of_inputs = lambda f: lambda x, w, g: jax.vjp(lambda x: f(x, w), x)[1](g)  # noqa: E731
    of_weights = lambda f: lambda x, w, g: jax.vjp(lambda w: f(x, w), w)[1](g)  # noqa: E731

    def of_both(f: Callable[..., jax.Array]) -> Callable[..., Any]:
        def step(x: jax.Array, weights: jax.Array, g: jax.Array) -> Any:
            y, pull = jax.vjp(f, x, weights)
            return y, pull(g)

        return step

    for what, wrap in (
        ("forward", lambda f: lambda x, w, g: f(x, w)),
        ("gradient of inputs", of_inputs),
        ("gradient of weights", of_weights),
        ("forward and backward", of_both),
    ):
        pairs = {"dense": Jitted(wrap(jnp.matmul), x, dense, g), "blocks": Jitted(wrap(sparse), x, w.data, g)}
        rows = interleaved(pairs, "dense", repeats=3 if quick else 9, min_seconds=0.0 if quick else 1.0)
        products = 3 if what == "forward and backward" else 1
        roof = _roof(width, 1 - sparsity, rows[0]["median_ms"] / 1e3 / products)
        for row in rows:
            speedup = round(1 / row["ratio"], 3)
            new = {"what": what, "width": width, "sparsity": sparsity, **row, "speedup": speedup}
            if row["case"] != "dense":
                new |= {"share_of_ideal": round(speedup * (1 - sparsity), 3)}
                new |= {"share_of_roof": round(speedup / roof, 3)} if roof else {}
            yield new


def _roof(width: int, density: float, dense_seconds: float) -> float | None:
    """The most that a product in blocks can gain on this card, in bfloat16: None where its memory is not known."""
    kind = jax.devices()[0].device_kind
    rates = [rate for name, rate in BANDWIDTH.items() if name in kind]
    if not rates:
        return None
    moved = 2 * width * width * (2 + density)  # inputs, outputs, live blocks
    return dense_seconds / max(density * dense_seconds, moved / rates[0])


def decode_rows(quick: bool) -> Iterator[Row]:
    """One and eight rows of activations, where bytes are the limit: each packed form beside the dense matrix.

    ``limit_of_bytes`` is the bytes of the dense matrix over those of the form; each product is checked first.
    """
    width = 256 if quick else 8192
    for sparsity in (0.5, 0.7, 0.9):
        for rows in (1, 8):
            dense, forms = _packed(width, sparsity)
            x = jnp.asarray(np.random.default_rng(1).standard_normal((rows, width)), jnp.bfloat16)
            call = lambda x, w: x @ w  # noqa: E731
            pairs = {"dense": Jitted(call, x, dense)}
            for name, (matrix, w) in forms.items():
                pairs[name] = Jitted(call, x, w)
                right = _wide(x, matrix)
                off = _off(pairs[name](), right)
                if not off < TOLERANCE:
                    raise RuntimeError(
                        f"decode, {name}, {sparsity:.0%}, {rows} rows is off by {off:.2g}; {TOLERANCE} is allowed."
                    )
            for row in interleaved(
                pairs, "dense", repeats=3 if quick else 9, min_seconds=0.0 if quick else 0.3
            ):
                new = {"what": "decode", "width": width, "rows": rows, "sparsity": sparsity, **row}
                new |= {"speedup": round(1 / row["ratio"], 3)}
                if row["case"] in forms:
                    new |= {"limit_of_bytes": round(dense.nbytes / forms[row["case"]][1].nbytes, 3)}
                yield new


@functools.cache
def _packed(width: int, sparsity: float) -> tuple[jax.Array, dict[str, tuple[jax.Array, Any]]]:
    """A matrix with single zeros in its packed forms, and at a half one of 2:4; each with what it holds."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((width, width), np.float32)
    dense = jnp.asarray(drawn * (rng.random((width, width), np.float32) >= sparsity), jnp.bfloat16)
    forms = {"bitmap": (dense, pack_bitmap(dense)), "deltas": (dense, pack_deltas(dense))}
    if sparsity == 0.5:
        order = np.argsort(rng.random((4, width // 4, width), np.float32), axis=0)
        pairs = jnp.asarray(drawn * (order < 2).reshape(width, width), jnp.bfloat16)
        forms["2:4"] = pairs, pack_n_m(pairs, 2, 4)
    return dense, forms


def sparse_tensor_core_rows(quick: bool) -> Iterator[Row]:
    """2:4 on sparse tensor cores: each tile of rows checked beside its dense product, then timed beside the vendor's.

    The metadata's order is unverified until a card has said ``verified``; a wrong one is a row, not an end. Checked
    too: rows that fill no tile and groups with one value, by the way that users take, and its gradient.
    """
    if jax.default_backend() != "gpu" or not is_hopper():
        yield {"case": "2:4", "note": "not run: no Hopper GPU"}
        return
    width = 256 if quick else 8192
    rng = np.random.default_rng(0)
    order = np.argsort(rng.random((width // 4, 4, width), np.float32), axis=1)
    kept = (order < 2).reshape(width, width)
    dense = jnp.asarray(rng.standard_normal((width, width), np.float32) * kept, jnp.bfloat16)
    x = jnp.asarray(rng.standard_normal((width, width), np.float32), jnp.bfloat16)
    few = jnp.asarray(np.where((order < 1).reshape(width, width), dense, 0))
    w, right = pack_semi_structured(dense), _wide(x, dense)
    calls: dict[str, Callable[[], Any]] = {"dense": Jitted(jnp.matmul, x, dense)}
    with mock.patch.dict(os.environ, {FLAG: "1"}):
        call = jax.jit(lambda x, w: jax.vjp(lambda x: x @ w, x))
        y, pull = call(x[: width // 2 + 44], pack_semi_structured(few))
        for name, found, wanted in (
            ("rows that fill no tile", y, _wide(x[: len(y)], few)),
            ("their gradient", pull(y)[0], _wide(y, few.T)),
        ):
            off = _off(found, wanted)
            yield {"case": f"2:4, {name}", "relative_error": float(f"{off:.2g}"), "verified": off < TOLERANCE}
        for tile in sparse_tensor_cores.TILES:
            name = f"2:4, {tile[0]} rows a program"
            calls[name] = Jitted(functools.partial(sparse_tensor_cores.multiply, tile=tile), x, w)
            off = _off(calls[name](), right)
            yield {"case": name, "relative_error": float(f"{off:.2g}"), "verified": off < TOLERANCE}
    for row in interleaved(calls, "dense", repeats=3 if quick else 9, min_seconds=0.0 if quick else 1.0):
        row.pop("compile_ms", None)  # it was compiled for the check
        yield {
            "what": "forward",
            "width": width,
            "sparsity": 0.5,
            **row,
            "speedup": round(1 / row["ratio"], 3),
        }


def torch_rows(quick: bool) -> list[Row]:
    """The peers: torch's BSR and 2:4 beside its own dense product, on the same card."""
    if importlib.util.find_spec("torch") is None:
        return [{"case": "torch", "note": "not run: torch is not installed"}]
    import torch

    if not torch.cuda.is_available():
        return [{"case": "torch", "note": "not run: torch sees no GPU"}]
    width = 512 if quick else 8192
    draw = lambda: torch.randn(width, width, device="cuda", dtype=torch.bfloat16)  # noqa: E731
    x, linear = draw(), torch.nn.functional.linear
    pair = torch.tensor([0, 0, 1, 1], device="cuda", dtype=torch.bool).tile(width, width // 4)
    blocks = torch.rand(width // 128, width // 128, device="cuda") < 0.1
    weights = {
        "dense": draw,
        "2:4": lambda: torch.sparse.to_sparse_semi_structured(draw() * pair),
        "BSR, 90 %": lambda: (
            draw() * blocks.repeat_interleave(128, 0).repeat_interleave(128, 1)
        ).to_sparse_bsr((128, 128)),
    }
    found: list[Row] = []
    for name, make in weights.items():
        row: Row = {"case": f"torch, {name}", "width": width}
        try:
            w = make()
            seconds = _torch_seconds(torch, lambda w=w: linear(x, w))
        except Exception as error:  # one that this torch or card has not should not cost the other's row
            found.append({**row, "note": f"failed: {type(error).__name__}: {error}".split("\n")[0]})
            continue
        dense = found[0]["median_ms"] / 1e3 if found and "median_ms" in found[0] else seconds
        found.append({**row, "median_ms": seconds * 1e3, "speedup": round(dense / seconds, 3)})
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


def sparsegpt_rows(quick: bool) -> Iterator[Row]:
    """Seconds of SparseGPT on the layers of a LLaMA-2-7B block, without compilation, and what 32 blocks take by that.

    Every layer is solved by itself, with a Gram matrix of its own: nothing is shared between query, key and value.
    """
    width, hidden = (64, 172) if quick else (4096, 11008)
    shapes = {(width, width): 4, (hidden, width): 2, (width, hidden): 1}  # (outputs, inputs): of a block
    total = 0.0
    for (outputs, inputs), of_a_block in shapes.items():
        seconds = _sparsegpt_seconds(outputs, inputs)
        total += 32 * of_a_block * seconds
        yield {"case": f"{outputs} × {inputs}, 50 %", "median_ms": round(seconds * 1e3, 1)}
    yield {"case": "32 blocks of these, 224 layers", "median_ms": round(total * 1e3, 1)}


def _sparsegpt_seconds(outputs: int, inputs: int) -> float:
    weights = jax.random.normal(jax.random.key(0), (outputs, inputs))
    rows = jax.random.normal(jax.random.key(1), (2 * inputs, inputs))
    gram = rows.T @ rows
    del rows
    solve = lambda: solve_sparsegpt(weights, gram, sparsity=0.5)  # noqa: E731
    jax.block_until_ready(jax.tree.leaves(solve()))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(jax.tree.leaves(solve()))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


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


def _off(found: jax.Array, right: jax.Array) -> float:
    """The relative error of a product, by its norm."""
    return float(jnp.linalg.norm(found.astype(jnp.float32) - right) / jnp.linalg.norm(right))
