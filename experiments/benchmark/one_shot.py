"""SparseGPT of one layer against PyTorch to the letter, and a whole GPT stage by stage in bounded memory."""

import functools
import gc
import importlib.util
import multiprocessing
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.benchmark.harness import Row, interleaved
from experiments.models.gpt import GPT
from sparsejax.patterns import NM
from sparsejax.post_training import resolve_weights, solve_alps, solve_sparsegpt, sparsegpt, wanda_mask

_SHAPES = ((768, 3072), (3072, 768))  # (outputs, inputs)
_QUICK_SHAPES = ((48, 256),)
_LEVELS: dict[str, dict[str, Any]] = {"50 %": {"sparsity": 0.5}, "2:4": {"pattern": NM(2, 4)}}
_OURS, _LITERAL, _LAPACK = "solve_sparsegpt", "PyTorch to the letter", "LAPACK's share of it"
_CONTEXT = multiprocessing.get_context("spawn")
#: Where Linux says what a process holds; other systems have no such file, and their rows no ``peak_mb``.
_STATUS = pathlib.Path("/proc/self/status")


def run(quick: bool) -> list[Row]:
    """Times layers and a network; ratios are to PyTorch where it is installed, else to `solve_sparsegpt`.

    Args:
      quick: one small layer, a small network, no processes of their own to measure memory in.

    Returns:
      Rows with ``layer``, ``level`` and ``peak_mb`` (what a fresh process grew by), then rows of the network with
      ``seconds_a_block``, ``kept_mb`` (held for all batches), ``peak_mb`` (all arrays that JAX holds), ``bound_mb``
      and ``params_mb``.
    """
    rows = []
    for shape in _QUICK_SHAPES if quick else _SHAPES:
        for level in _LEVELS:
            rows += _layer(shape, level, quick)
    return rows + _network(quick)


def problem(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and the Gram matrix of correlated inputs.

    Args:
      shape: (outputs, inputs).

    Returns:
      Both float32.
    """
    inputs = shape[1]
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(inputs // 2, inputs)).astype(np.float32)
    x = rng.normal(size=(4 * inputs, inputs // 2)).astype(np.float32) @ factors
    x += 3 * rng.normal(size=x.shape).astype(np.float32)
    return rng.normal(size=shape).astype(np.float32), x.T @ x / len(x)


def _layer(shape: tuple[int, int], level: str, quick: bool) -> list[Row]:
    weights, gram = problem(shape)
    cases = layer_cases(weights, gram, level)
    baseline = _LITERAL if _LITERAL in cases else _OURS
    rows = interleaved(cases, baseline, repeats=1 if quick else 5, min_seconds=0.0)
    for row in rows:
        row |= {"layer": f"{shape[0]}×{shape[1]}", "level": level}
        if not quick and row["case"] in (_OURS, _LITERAL) and _STATUS.exists():
            row["peak_mb"] = round(_in_own_process(shape, level, row["case"]) / 2**20)
    return rows


def layer_cases(weights: np.ndarray, gram: np.ndarray, level: str) -> dict[str, Callable[[], Any]]:
    """What is timed on one layer.

    Args:
      weights: (outputs, inputs).
      gram: (inputs, inputs).
      level: a key of the levels.

    Returns:
      Calls by name; PyTorch's only where it is installed.
    """
    what, w, h = _LEVELS[level], jnp.asarray(weights), jnp.asarray(gram)
    mask = wanda_mask(w, jnp.sqrt(jnp.diagonal(h)), **what)
    cases = {
        _OURS: lambda: solve_sparsegpt(w, h, **what).weights,
        _LAPACK: lambda: _factor(h),
        "solve_alps": lambda: solve_alps(w, h, **what).weights,
        "Wanda, re-solved": lambda: resolve_weights(w, h, mask).weights,
    }
    if importlib.util.find_spec("torch") is not None:
        cases[_LITERAL] = functools.partial(literal_sparsegpt, weights, gram, level)
    return cases


@jax.jit
def _factor(gram: jax.Array) -> jax.Array:
    damped = gram + 0.01 * jnp.mean(jnp.diagonal(gram)) * jnp.eye(len(gram))
    lower = jnp.linalg.cholesky(damped[::-1, ::-1], symmetrize_input=False)[::-1, ::-1]
    return jax.lax.linalg.triangular_solve(lower, jnp.eye(len(gram)), left_side=True, lower=False)


def literal_sparsegpt(weights: np.ndarray, gram: np.ndarray, level: str) -> Any:
    """Algorithm 1 of arXiv 2301.00774 in PyTorch, a column at a time, blocks of 128.

    Args:
      weights: (outputs, inputs).
      gram: (inputs, inputs).
      level: a key of the levels.

    Returns:
      The pruned weights, a torch tensor.
    """
    import torch

    w, h = torch.tensor(weights), torch.tensor(gram)
    what, columns = _LEVELS[level], w.shape[1]
    h += 0.01 * torch.mean(torch.diag(h)) * torch.eye(columns)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    u = torch.linalg.cholesky(inverse, upper=True)
    for first in range(0, columns, 128):
        last = min(first + 128, columns)
        block, errors, diagonal = w[:, first:last].clone(), [], torch.diag(u)[first:last]
        gone = torch.zeros_like(block, dtype=torch.bool)
        if "sparsity" in what:
            score = block**2 / diagonal**2
            gone = score <= torch.sort(score.flatten())[0][int(what["sparsity"] * score.numel()) - 1]
        for j in range(last - first):
            if "pattern" in what and j % what["pattern"].m == 0:
                m, n = what["pattern"].m, what["pattern"].n
                score = block[:, j : j + m] ** 2 / diagonal[j : j + m] ** 2
                gone.scatter_(1, j + torch.topk(score, m - n, dim=1, largest=False)[1], True)
            kept = torch.where(gone[:, j], 0.0, block[:, j])
            error = (block[:, j] - kept) / diagonal[j]
            block[:, j:] -= torch.outer(error, u[first + j, first + j : last])
            block[:, j] = kept
            errors.append(error)
        w[:, first:last] = block
        w[:, last:] -= torch.stack(errors, 1) @ u[first:last, last:]
    return w


def _in_own_process(shape: tuple[int, int], level: str, case: str) -> int:
    """The bytes that a fresh process grows by while it runs a case for the first time."""
    with _CONTEXT.Pool(1) as pool:
        return pool.apply(grown_by, (shape, level, case))


def grown_by(shape: tuple[int, int], level: str, case: str) -> int:
    """Runs a case once in this process.

    Args:
      shape: of the layer.
      level: likewise.
      case: its name.

    Returns:
      The bytes by which the peak of this process rose.
    """
    weights, gram = problem(shape)
    call = layer_cases(weights, gram, level)[case]
    gc.collect()
    # The peak begins at what is held now.
    _STATUS.with_name("clear_refs").write_text("5", encoding="ascii")
    before = peak_bytes()
    jax.block_until_ready(call())
    return peak_bytes() - before


def peak_bytes() -> int:
    """The most memory that this process has held, as Linux counts it."""
    (line,) = [line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


def _network(quick: bool) -> list[Row]:
    """A GPT block by block: the second call, so that compilation is not counted."""
    width, depth, batches = (32, 2, 2) if quick else (256, 4, 16)
    model = GPT(
        vocabulary=256, context=128, width=width, depth=depth, heads=4, mlp_dim=4 * width, rngs=nnx.Rngs(0)
    )
    graph, params = nnx.split(model)
    tokens = [np.random.default_rng(i).integers(0, 256, (8, 128)).astype(np.int32) for i in range(batches)]

    def prune() -> Any:
        return sparsegpt(lambda p, x: nnx.merge(graph, p)(x), params, tokens, sparsity=0.5)

    prune()
    begin = time.perf_counter()
    layers = prune().layers.values()
    seconds = time.perf_counter() - begin
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return [
        {
            "case": "a GPT by SparseGPT",
            "layer": f"{depth} blocks of {width}, {batches * 8 * 128:,} tokens",
            "level": "50 %",
            "baseline": "",
            "median_ms": round(1e3 * seconds),
            "seconds_a_block": round(seconds / depth, 2),
            "kept_mb": round(max(layer.kept_bytes for layer in layers) / 2**20, 1),
            "peak_mb": round(max(layer.peak_bytes for layer in layers) / 2**20, 1),
            "bound_mb": round(_bound(width, batches * 8 * 128, size) / 2**20, 1),
            "params_mb": round(size / 2**20, 1),
        }
    ]


def _bound(width: int, tokens: int, params: int) -> int:
    """Bytes of one block at its widest place in both models, its three sums, parameters twice and their masks."""
    return 2 * tokens * (width + 4 * width) * 4 + 3 * (4 * width) ** 2 * 4 + 2 * params + params // 4
