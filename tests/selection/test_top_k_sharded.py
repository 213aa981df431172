"""Selection over 8 simulated devices: the same mask, the same sharding, and nothing but counts on the wire.

The main pytest process keeps one device, so the cases run in one subprocess, which is this file as a script; it
prints one JSON line a case and the tests read those.
"""

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.compile_cache import WITHOUT

DEVICES = 8
# Collectives that move data rather than reduce it.
MOVES = ("all-gather", "all-to-all", "collective-permute", "collective-broadcast", "ragged-all-to-all")
# shape, partition of its axes, scores, stacked axes: every way the sharded axis can meet the selection's own.
CASES: dict[str, tuple[tuple[int, ...], tuple[Any, ...], str, tuple[int, ...]]] = {
    "rows": ((64, 40), ("x", None), "normal", ()),
    "last axis": ((30, 64), (None, "x"), "normal", ()),
    "two axes": ((32, 24), ("x", "y"), "normal", ()),
    "one axis over both mesh axes": ((5, 48, 3), (None, ("x", "y"), None), "normal", ()),
    "one dimension": ((8 * 1237,), (("x", "y"),), "normal", ()),
    "large, no round size": ((8 * 130, 997), ("x", None), "normal", ()),
    "stacked axis sharded": ((8, 33, 7), (("x", "y"), None, None), "normal", (0,)),
    "stacked axis whole": ((3, 16, 10), (None, "x", "y"), "normal", (0,)),
    "stacked last axis sharded": ((16, 10, 8), (None, None, "x"), "normal", (2,)),
    "stacked and sharded inside": ((4, 16, 10), ("x", "y", None), "few values", (0,)),
    "all ties": ((64, 40), ("x", "y"), "constant", ()),
    "all ties in five axes": ((3, 8, 5, 4, 2), (None, "x", None, "y", None), "constant", ()),
    "few values": ((64, 129), ("x", None), "few values", ()),
    "special values": ((64, 40), (None, "x"), "special", ()),
}

# One sharding of each sort by default; the others, in a process of their own, are slow.
SLOW = (
    "last axis",
    "one dimension",
    "large, no round size",
    "stacked last axis sharded",
    "stacked and sharded inside",
    "all ties",
    "few values",
)


def _scores(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = {
        "normal": lambda: rng.normal(size=shape),
        "constant": lambda: np.full(shape, 0.25),
        "few values": lambda: rng.integers(-1, 3, shape) / 4,
        "special": lambda: rng.choice([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45], shape),
    }[kind]()
    return values.astype(np.float32)


# --- in the subprocess --------------------------------------------------------------------------------------


def _run_cases(names: list[str]) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", DEVICES)
    others = {"where": _run_where, "vmap": _run_vmap, "global": _run_global}
    for name in names:
        found = others[name]() if name in others else _run_mask(*CASES[name])
        print(json.dumps({"case": name, **found}), flush=True)


def _place(value: np.ndarray, spec: tuple[Any, ...]) -> Any:
    """Puts `value` on the mesh and checks that no device holds all of it."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    array = jax.device_put(value, NamedSharding(mesh, PartitionSpec(*spec)))
    assert not array.sharding.is_fully_replicated
    assert max(shard.data.size for shard in array.addressable_shards) < value.size
    return array


def _compile(function: Callable[..., Any], *args: Any) -> tuple[Any, dict[str, Any]]:
    """Compiles `function` and reports which collectives the program holds and how much the largest moves."""
    import jax

    program = jax.jit(function).lower(*args).compile()
    text = program.as_text()
    reduced = [
        _elements(line) for line in text.splitlines() if re.search(r"= .* all-reduce(-start)?\(", line)
    ]
    report = {
        "moves": [name for name in MOVES if name in text],
        "reductions": len(reduced),
        "largest": max(reduced, default=0),
    }
    return program, report


def _elements(line: str) -> int:
    """How many numbers the result of an HLO instruction holds, the parts of a tuple together."""
    result = line.split(" = ")[1].split(" all-reduce")[0]
    shapes = re.findall(r"[a-z]+\d*\[([\d,]*)\]", result)
    return sum(int(np.prod([int(d) for d in shape.split(",") if d])) for shape in shapes)


def _run_mask(
    shape: tuple[int, ...], spec: tuple[Any, ...], kind: str, stacked: tuple[int, ...]
) -> dict[str, Any]:
    import jax.numpy as jnp

    from sparsejax.selection import top_k_mask

    host = _scores(kind, shape)
    slices = np.moveaxis(host, stacked, range(len(stacked)))
    entries = int(np.prod(slices.shape[len(stacked) :]))
    array = _place(host, spec)
    program, report = _compile(lambda s, k: top_k_mask(s, k, stacked=stacked), array, jnp.int32(0))
    equal, sharding = [], True
    for k in (0, 1, entries // 3, entries - 1, entries):
        mask = program(array, jnp.int32(k))
        sharding &= mask.sharding.is_equivalent_to(array.sharding, array.ndim)
        expected = _expected(slices.reshape(-1, entries), k).reshape(slices.shape)
        equal.append(bool(np.array_equal(mask, np.moveaxis(expected, range(len(stacked)), stacked))))
    return {"equal": equal, "sharding": sharding, **report}


def _expected(slices: np.ndarray, k: int) -> np.ndarray:
    """The mask by NumPy's stable sort; NaN last."""
    order = np.argsort(-np.where(np.isnan(slices), -np.inf, slices).astype(np.float64), axis=1, kind="stable")
    nans = np.take_along_axis(np.isnan(slices), order, axis=1)
    order = np.take_along_axis(order, np.argsort(nans, axis=1, kind="stable"), axis=1)
    mask = np.zeros(slices.shape, bool)
    np.put_along_axis(mask, order[:, :k], True, axis=1)
    return mask


def _run_where() -> dict[str, Any]:
    from sparsejax.selection import top_k_mask

    host = np.abs(_scores("few values", (64, 40)))
    candidates = _scores("normal", (64, 40)) > 0
    array, where = _place(host, ("x", "y")), _place(candidates, ("x", "y"))
    program, report = _compile(lambda s, w: top_k_mask(s, 500, where=w), array, where)
    mask = program(array, where)
    expected = _expected(np.where(candidates, host, -1.0).reshape(1, -1), 500).reshape(host.shape)
    sharding = mask.sharding.is_equivalent_to(array.sharding, 2)
    return {"equal": [bool(np.array_equal(mask, expected))], "sharding": sharding, **report}


def _run_vmap() -> dict[str, Any]:
    """A population whose members are spread over devices, each with its own k."""
    import jax

    from sparsejax.selection import top_k_mask

    host, k = _scores("few values", (8, 31, 7)), np.arange(8, dtype=np.int32) * 20
    array = _place(host, (("x", "y"), None, None))
    program, report = _compile(jax.vmap(top_k_mask), array, k)
    mask = program(array, k)
    expected = [_expected(member.reshape(1, -1), n).reshape(31, 7) for member, n in zip(host, k, strict=True)]
    sharding = mask.sharding.is_equivalent_to(array.sharding, 3)
    return {"equal": [bool(np.array_equal(mask, np.stack(expected)))], "sharding": sharding, **report}


def _run_global() -> dict[str, Any]:
    from sparsejax.selection.top_k import global_counts

    shapes, specs = [(64, 40), (8, 33), (8, 16, 10)], [("x", "y"), ("x", None), ("x", None, "y")]
    hosts = [_scores(k, s) for k, s in zip(("normal", "few values", "few values"), shapes, strict=True)]
    arrays = [_place(host, spec) for host, spec in zip(hosts, specs, strict=True)]
    stacked = [(), (), (0,)]
    program, report = _compile(lambda *s: global_counts(s, 1000, stacked=stacked), *arrays)
    counts = program(*arrays)
    flat = _expected(np.concatenate([host.ravel() for host in hosts])[None], 1000)[0]
    parts = np.split(flat, np.cumsum([host.size for host in hosts])[:-1])
    expected = [parts[0].sum(), parts[1].sum(), parts[2].reshape(8, -1).sum(axis=1)]
    equal = [bool(np.array_equal(a, b)) for a, b in zip(counts, expected, strict=True)]
    return {"equal": equal, "sharding": True, **report}


# --- in pytest ----------------------------------------------------------------------------------------------


@functools.cache
def _reports(names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What a subprocess found in these cases, by case."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = {**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu", **WITHOUT}
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["case"]: line for line in lines}


QUICK = (*(name for name in CASES if name not in SLOW), "where", "vmap", "global")


@pytest.mark.parametrize("case", QUICK)
def test_sharded_selection(case: str) -> None:
    _check(_reports(QUICK)[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_selection_of_other_shardings(case: str) -> None:
    _check(_reports(SLOW)[case])


def _check(report: dict[str, Any]) -> None:
    assert all(report["equal"]), report
    assert report["sharding"], report
    assert report["moves"] == [], report
    assert report["largest"] <= 128, report  # counts of a few probes of a few slices, never entries


def test_the_report_sees_collectives() -> None:
    assert _reports(QUICK)["rows"]["reductions"] > 0
    assert _elements("  %r = (u32[4]{0}, f32[2,3]{1,0}) all-reduce(%a, %b), channel_id=1") == 10


if __name__ == "__main__":
    _run_cases(sys.argv[1:])
