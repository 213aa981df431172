"""Sparse products and block-sparse training against the best dense layout, and a peer, with the break-even sparsity."""

import functools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from experiments.benchmark import kernels_training
from experiments.benchmark.harness import Jitted, Row, interleaved, write_json
from experiments.benchmark.peer_process import PEER_PYTHON, PeerError
from experiments.report.break_even import crossing
from sparsejax.kernels import from_dense, matmul, pack_bitmap, pack_deltas, pack_fan_in, pack_n_m
from sparsejax.kernels.cost_model import FORMS


class Size(NamedTuple):
    """A square matrix of which a share of the blocks is live, and the rows it is multiplied by."""

    width: int
    block: int
    rows: int
    sparsity: float


def run(quick: bool) -> Iterator[Row]:
    """Times products and gradients; every case is checked against the dense product first.

    The baseline is the faster of two dense layouts, ``x W`` and ``(Wᵀ xᵀ)ᵀ`` with Wᵀ stored: beside the slower one
    every sparse speed-up is fake.

    Args:
      quick: small sizes.

    Yields:
      Rows with ``speedup`` over the best dense layout, ``share_of_ideal`` (speed-up · density) and, a form and number
      of rows, the ``break_even`` sparsity.
    """
    rows: list[Row] = []
    for sizes, measure in ((_sizes(quick), products), (_gradient_sizes(quick), gradients)):
        for size in sizes:
            rows += (new := measure(size, quick))
            yield from new
    yield from break_evens(rows)
    yield from training_rows(quick)


def _sizes(quick: bool) -> list[Size]:
    if quick:
        return [Size(64, 16, 4, 0.75), Size(64, 16, 4, 0.5)]
    sparsities = (0.5, 0.75, 0.9, 0.95)
    small = [Size(1024, 128, rows, s) for rows in (1, 32, 256) for s in sparsities]
    return [*small, *(Size(4096, 128, 256, s) for s in (0.75, 0.9, 0.95))]


def _gradient_sizes(quick: bool) -> list[Size]:
    if quick:
        return [Size(64, 16, 8, s) for s in (0.5, 0.75)]
    return [Size(width, 128, 256, s) for width in (1024, 4096) for s in (0.75, 0.9, 0.95)]


def products(size: Size, quick: bool) -> list[Row]:
    """The product in every form, beside both dense layouts."""
    dense, x = _matrix(size), _normal((size.rows, size.width), 1)
    transposed = jnp.asarray(np.asarray(dense).T.copy())
    call = lambda x, w: x @ w  # noqa: E731
    cases: dict[str, Callable[[], Any]] = {
        "dense": Jitted(call, x, dense),
        "dense, transposed": Jitted(lambda x, w: (w @ x.T).T, x, transposed),
        "blocks": Jitted(matmul, x, from_dense(dense, block=(size.block, size.block))),
        "fan_in": Jitted(call, x, pack_fan_in(dense, block=(size.block, size.block))),
    }
    if size.sparsity in (0.5, 0.75):
        strided = _strided(size)
        cases["n_m"] = Jitted(call, x, pack_n_m(strided, round(4 * (1 - size.sparsity)), 4))
    if size.rows <= 8:
        cases["bitmap"] = Jitted(call, x, pack_bitmap(dense))
        cases["deltas"] = Jitted(call, x, pack_deltas(dense))
    # What a product with masked weights costs where nothing is packed, and JAX's own list of single weights.
    cases["masked dense"] = Jitted(lambda x, w, mask: x @ (w * mask), x, _normal(dense.shape, 0), dense != 0)
    once = []
    if size.width <= 1024:  # more would take longer than all the rest
        cases["BCOO"] = Jitted(call, x, BCOO.fromdense(dense))
        once = ["BCOO"] if size.rows > 8 else []
    _check(cases, np.asarray(x, np.float64) @ np.asarray(dense, np.float64))
    return _beside_best(cases, size, "product", quick, once)


def gradients(size: Size, quick: bool) -> list[Row]:
    """The product and both of its gradients."""
    dense, x = _matrix(size), _normal((size.rows, size.width), 1)
    g = _normal((size.rows, size.width), 2)
    transposed = jnp.asarray(np.asarray(dense).T.copy())

    def block_step(x: jax.Array, data: jax.Array, w: Any, g: jax.Array) -> Any:
        product = lambda x, data: matmul(x, type(w)(data, w.topology, w.shape))  # noqa: E731
        y, pull = jax.vjp(product, x, data)
        return y, pull(g)

    w = from_dense(dense, block=(size.block, size.block))
    cases = {
        "dense": Jitted(lambda x, w, g: (x @ w, (g @ w.T, x.T @ g)), x, dense, g),
        "dense, transposed": Jitted(
            lambda x, w, g: ((w @ x.T).T, ((w.T @ g.T).T, g.T @ x)), x, transposed, g
        ),
        "blocks": Jitted(block_step, x, w.data, w, g),
    }
    return _beside_best(cases, size, "forward and backward", quick)


def break_evens(rows: list[Row]) -> list[Row]:
    """Between which two measured sparsities a form begins to pay: linear in its relative time."""
    found = []
    keys = dict.fromkeys((row["what"], row["case"], row["width"], row["rows"]) for row in rows)
    for what, case, width, count in keys:
        line = sorted(
            (row["sparsity"], row["speedup"])
            for row in rows
            if (row["what"], row["case"], row["width"], row["rows"]) == (what, case, width, count)
        )
        if case.startswith("dense") or len(line) < 2:
            continue
        found.append(
            {
                "what": what,
                "case": f"{case}: break-even",
                "width": width,
                "rows": count,
                "break_even": crossing(line),
            }
        )
    return found


def points(rows: list[Row]) -> list[dict[str, Any]]:
    """What the cost model of `to_sparse` reads, out of the rows of the products of width 1024."""
    chosen = [
        row
        for row in rows
        if row.get("what") == "product" and row["width"] in (64, 1024) and "speedup" in row
    ]
    forms = [row for row in chosen if row["case"] in FORMS and row["case"] != "dense"]
    return [
        {
            "form": row["case"],
            "rows": row["rows"],
            "density": round(1 - row["sparsity"], 4),
            "ratio": round(1 / row["speedup"], 3),
        }
        for row in forms
    ]


def training_rows(quick: bool) -> list[Row]:
    """Steps of a GPT: dense and in blocks, and beside them a peer's layers and dense torch, at equal tokens."""
    python, size = os.environ.get(PEER_PYTHON, ""), "quick" if quick else "cpu"
    said: dict[str, str] = {"note": f"not run: {PEER_PYTHON} names no Python with it"}
    try:
        rows = kernels_training.run(size, peer_python=python)
    except PeerError as error:
        rows, said = kernels_training.run(size), {"error": str(error)}
        python = ""
    missing = [] if python else [{"case": "sparselab", **said}]
    return [{"what": "training", **row} for row in rows + missing]


def write_points(rows: str, points_file: str) -> None:
    """Makes the table of `to_sparse` out of the rows that ``--json`` wrote.

    Args:
      rows: path of the rows.
      points_file: path to write; `kernels.cost_model.read_points` reads it, and `costs.json` is one.
    """
    found = points(json.loads(pathlib.Path(rows).read_text(encoding="utf-8")))
    write_json(points_file, found)


def _beside_best(
    cases: dict[str, Any], size: Size, what: str, quick: bool, once: Collection[str] = ()
) -> list[Row]:
    rows = interleaved(
        cases, "dense", repeats=3 if quick else 15, min_seconds=0.0 if quick else 1.0, once=once
    )
    best = min(row["ratio"] for row in rows if row["case"].startswith("dense"))
    for row in rows:
        row["what"] = what
        row |= size._asdict()
        row["speedup"] = round(best / row["ratio"], 3)
        if not row["case"].startswith("dense"):
            row["share_of_ideal"] = round(row["speedup"] * (1 - size.sparsity), 3)
    return rows


@functools.cache
def _normal(shape: tuple[int, ...], seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def _matrix(size: Size) -> jax.Array:
    """Random values in an exact share of the blocks."""
    blocks = (size.width // size.block) ** 2
    kept = np.random.default_rng(0).permutation(blocks) < round((1 - size.sparsity) * blocks)
    mask = np.kron(kept.reshape(size.width // size.block, -1), np.ones((size.block, size.block), np.float32))
    return _normal((size.width, size.width), 0) * mask


def _strided(size: Size) -> jax.Array:
    """n of every 4 weights, a stride of a quarter of the inputs apart."""
    kept = np.argsort(np.random.default_rng(0).random((4, size.width // 4, size.width)), axis=0)
    mask = (kept < round(4 * (1 - size.sparsity))).reshape(size.width, size.width)
    return _normal((size.width, size.width), 0) * mask.astype(np.float32)


def _check(cases: dict[str, Any], expected: np.ndarray) -> None:
    """What is timed computes the product; N:M has a matrix of its own, which its tests compare."""
    for name, case in cases.items():
        off = np.linalg.norm(np.asarray(case(), np.float64) - expected) / np.linalg.norm(expected)
        if name != "n_m" and off > 1e-5:
            raise RuntimeError(f"{name}: its product differs from float64 by {off:.2g}.")


if __name__ == "__main__":
    write_points(*sys.argv[1:])
