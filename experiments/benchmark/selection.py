"""Exact top-k masks of 1 to 100 million scores against sorting, lax.top_k and NumPy's partition."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.benchmark.harness import Jitted, Row, interleaved
from sparsejax.selection import top_k_mask

#: Name to a draw of that many scores.
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: np.abs(rng.standard_normal(n, np.float32)),
    "lognormal": lambda rng, n: np.exp(3 * rng.standard_normal(n, np.float32)),
    "90 % zeros": lambda rng, n: np.maximum(rng.standard_normal(n, np.float32) - np.float32(1.2816), 0),
    "5 values": lambda rng, n: rng.integers(0, 5, n, np.int8).astype(np.float32),
}
_MLP = ((784, 1024), (1024, 1024), (1024, 10))  # 1.9 million weights
_QUICK_SIZES = (100_000, 1_000_000)
_SIZES = (1_000_000, 10_000_000, 100_000_000)
_NUMPY = "np.partition"
_OURS = "top_k_mask"


def run(quick: bool) -> list[Row]:
    """Times masks over sizes, distributions and shares kept; ratios are to `np.partition` on the host.

    Args:
      quick: 100 thousand and 1 million scores, 10 % kept.

    Returns:
      Rows with ``scores``, ``distribution``, ``kept``, and ``speedup_over_sort``: the time of `jnp.sort` of as
      many normal scores over that of the case.
    """
    rows = _mlp()
    for size in _QUICK_SIZES if quick else _SIZES:
        rows += _with_speedup([row for part in _sizes_rows(size, quick) for row in part])
    return rows


def _sizes_rows(size: int, quick: bool) -> Iterator[list[Row]]:
    rng = np.random.default_rng(0)
    for name, draw in DISTRIBUTIONS.items():
        scores = draw(rng, size)
        # One share at 100 M, where np.partition of mostly zeros takes a quarter of a minute.
        for kept in (0.1,) if quick or size > 10**7 else (0.01, 0.1, 0.5):
            sorts = name == "normal" and kept == 0.1
            begin = time.perf_counter()
            labels = {"scores": f"{size:,}", "distribution": name, "kept": f"{kept:.0%}"}
            yield [{**labels, **row} for row in _compare(scores, int(size * kept), sorts)]
            seconds = time.perf_counter() - begin
            print(f"  {', '.join(labels.values())}: {seconds:.0f} s", flush=True)


def cases(quick: bool) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """One case for each size and distribution at 10 % kept; at 100 M the normal one, as the host takes long."""
    yield "3 layers", _mlp
    for size in _QUICK_SIZES if quick else _SIZES:
        for name in ("normal",) if size > 10**7 else DISTRIBUTIONS:
            yield f"{size:,} {name}", lambda size=size, name=name: _one(size, name)


def _one(size: int, name: str) -> list[Row]:
    scores = DISTRIBUTIONS[name](np.random.default_rng(0), size)
    labels = {"scores": f"{size:,}", "distribution": name, "kept": "10%"}
    return [{**labels, **row} for row in _with_speedup(_compare(scores, size // 10, name == "normal"))]


def _compare(scores: np.ndarray, k: int, sorts: bool) -> list[Row]:
    held = jax.device_put(scores)
    cases: dict[str, Callable[[], Any]] = {
        _NUMPY: lambda: np.partition(scores, scores.size - k),
        _OURS: Jitted(top_k_mask, held, jnp.int32(k)),
    }
    accelerated = jax.default_backend() != "cpu"
    affordable = accelerated or scores.size <= 10**7
    if sorts and affordable:
        cases["jnp.sort"] = Jitted(jnp.sort, held)
        cases["lax.top_k"] = Jitted(lax.top_k, held, k, static_argnums=1)
    slow = (
        [] if accelerated or scores.size < 10**7 else [name for name in cases if name not in (_NUMPY, _OURS)]
    )
    rows = interleaved(cases, _NUMPY, repeats=3 if scores.size > 10**7 else 5, min_seconds=0.3, once=slow)
    return [
        {**row, "note": _note(row["case"], row["case"] in slow, sorts and not affordable)} for row in rows
    ]


def _note(case: str, once: bool, sort_skipped: bool) -> str | None:
    if once:
        return "run once: too slow to repeat"
    if case == _NUMPY and jax.default_backend() != "cpu":
        return "on the host"
    if case == _OURS and sort_skipped:
        return "no sort beside it: minutes on a CPU"
    return None


def _with_speedup(rows: list[Row]) -> list[Row]:
    """Divides the one sort of this size by each of our times."""
    sorts = [row["median_ms"] for row in rows if row["case"] == "jnp.sort"]
    if not sorts:
        return rows
    return [
        {**row, "speedup_over_sort": round(sorts[0] / row["median_ms"], 1)} if row["case"] == _OURS else row
        for row in rows
    ]


def _mlp() -> list[Row]:
    """The mask update of a whole small model: three layers in one program."""
    rng = np.random.default_rng(0)
    layers = [np.abs(rng.standard_normal(shape, np.float32)) for shape in _MLP]
    held = [jax.device_put(layer) for layer in layers]
    counts = [layer.size // 10 for layer in layers]
    cases: dict[str, Callable[[], Any]] = {
        _NUMPY: lambda: [np.partition(s.ravel(), s.size - k) for s, k in zip(layers, counts, strict=True)],
        _OURS: Jitted(lambda *scores: [top_k_mask(s, k) for s, k in zip(scores, counts, strict=True)], *held),
    }
    labels = {
        "scores": f"{sum(layer.size for layer in layers):,} in 3 layers",
        "distribution": "normal",
        "kept": "10%",
    }
    return [{**labels, **row} for row in interleaved(cases, _NUMPY)]


def check(quick: bool) -> Iterator[str]:
    """Compares masks with NumPy's at real sizes: `check_mask` of each size and distribution.

    Args:
      quick: 1 million scores at most.

    Yields:
      One line for each comparison that held.
    """
    for size in checked_sizes(quick):
        for name in DISTRIBUTIONS:
            yield check_mask(size, name)


def checked_sizes(quick: bool) -> tuple[int, ...]:
    """How many scores the checked masks have."""
    return _QUICK_SIZES if quick else (100_003, *_SIZES[1:])


def check_mask(size: int, name: str) -> str:
    """Compares one mask, a third of the scores kept, with NumPy's.

    Args:
      size: how many scores.
      name: their distribution.

    Returns:
      What was compared.

    Raises:
      RuntimeError: the masks differ.
    """
    scores, k = DISTRIBUTIONS[name](np.random.default_rng(1), size), size // 3
    wrong = int(np.sum(np.asarray(top_k_mask(jax.device_put(scores), k)) != _reference(scores, k)))
    if wrong:
        raise RuntimeError(f"top_k_mask of {size:,} {name} scores, k = {k:,}: {wrong:,} entries differ.")
    return f"mask of {size:,} {name} scores"


def _reference(scores: np.ndarray, k: int) -> np.ndarray:
    """The mask from NumPy's k-th largest, ties to the lowest index."""
    threshold = np.partition(scores, scores.size - k)[scores.size - k]
    above = scores > threshold
    tied = scores == threshold
    return above | (tied & (np.cumsum(tied) <= k - np.sum(above)))
