"""Packed masks over 8 simulated devices: sharded like their parameters, and a plain step moves nothing.

The main pytest process keeps one device, so the cases run in one subprocess, which is this file as a script.
"""

import functools
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.compile_cache import WITHOUT
from tests.distributed.hlo import operations

# Shape and partition over (data, model), 4 x 2: shards that are multiples of 8 long on both axes, on one, on none.
CASES: dict[str, tuple[tuple[int, ...], tuple[Any, ...]]] = {
    "both": ((64, 32), ("data", "model")),
    "the second only": ((80, 512), ("data", "model")),
    "rows of no multiple": ((1000, 512), ("data", None)),
    "neither": ((12, 20), ("data", "model")),
    "one axis over both": ((40, 24), (("data", "model"), None)),
    "stacked": ((4, 10, 6), ("data", None, "model")),
}
#: In a process of their own.
SLOW = ("rows of no multiple", "one axis over both")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]


def _run_cases(names: list[str]) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    for name in names:
        print(json.dumps({"case": name, **_run(*CASES[name])}), flush=True)


def _run(shape: tuple[int, ...], spec: tuple[Any, ...]) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import sparsejax
    from sparsejax.masks.packed import pack, unpack

    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    placed = NamedSharding(mesh, PartitionSpec(*spec))
    values = jax.random.normal(jax.random.key(0), shape)
    mask = jax.device_put(values > 0, placed)
    restored = unpack(pack(mask))
    tx = sparsejax.gmp(
        optax.sgd(0.1, momentum=0.9), sparsity=0.5, begin_step=0, end_step=100, update_every=10
    )
    params, state = sparsejax.init(tx, {"w": jax.device_put(values, placed)})

    def compiled(tx: Any, state: Any, **options: Any) -> Any:
        def step(grads: Any, state: Any, params: Any) -> Any:
            updates, state = tx.update(grads, state, params, **options)
            return optax.apply_updates(params, updates), state

        return jax.jit(step).lower(params, state, params).compile()

    # The plain step by itself: of masks that never change, packed from this very placement.
    fixed = sparsejax.sparsify(optax.sgd(0.1, momentum=0.9), sparsejax.rules.fixed_masks({"w": mask}))
    plain = compiled(fixed, sparsejax.init(fixed, params)[1])
    due = compiled(tx, state, step=10)
    params, state = due(params, state, params)
    bits = state.masks.bits["w"]
    return {
        "same": bool(np.array_equal(restored, mask)),
        "kept": int(jnp.sum(sparsejax.get_masks(state)["w"])),
        "parts": len({str(shard.index) for shard in bits.addressable_shards}),
        "expected parts": len({str(shard.index) for shard in params["w"].addressable_shards}),
        "bytes": bits.nbytes,
        "plain": operations(plain.as_text()),
        "update moves": [o for o in operations(due.as_text()) if o[0] != "all-reduce"],
    }


def _found(case: str) -> dict[str, Any]:
    return _rows(tuple(name for name in CASES if (name in SLOW) == (case in SLOW)))[case]


@functools.cache
def _rows(names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.masks.test_packed_sharded", *names],
        env={**os.environ, **WITHOUT, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["case"]: row for row in rows}


@pytest.mark.parametrize("case", NAMES)
def test_a_plain_step_has_no_collective_and_an_update_moves_no_data(case):
    assert _found(case)["plain"] == []
    assert _found(case)["update moves"] == []


@pytest.mark.parametrize("case", NAMES)
def test_bits_are_sharded_like_the_parameter_and_unpack_to_the_mask(case):
    row = _found(case)
    assert row["same"]
    assert row["parts"] == row["expected parts"] > 1
    size = 1
    for n in CASES[case][0]:
        size *= n
    assert row["bytes"] < size / 4
    assert size * 0.5 <= row["kept"] <= size  # after the first of the updates: on the way to a half


if __name__ == "__main__":
    _run_cases(sys.argv[1:])
