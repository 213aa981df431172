"""Script: trains every recipe on given gradients over a mesh; leaves masks, shardings and collectives behind."""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import sparsejax
from tests.distributed import hlo, layouts
from tests.distributed.launch import save
from tests.distributed.population import run_population
from tests.distributed.train_model import run_training


def run_recipe(name: str, mesh: Mesh | None) -> tuple[dict, dict[str, np.ndarray]]:
    """Starts and trains one recipe; gives facts and host arrays."""
    recipe = layouts.recipes()[name]
    tx = recipe.tx

    def draw(seed: int) -> dict[str, jax.Array]:
        return layouts.place(layouts.values(seed, recipe), mesh)

    params, state = sparsejax.init(tx, draw(0))
    facts: dict[str, Any] = {"init": _placements(params, state, mesh)}
    arrays = _arrays(f"{name}/init", params, state)

    def step(grads: dict, state: Any, params: dict) -> tuple[dict, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step).lower(draw(1), state, params).compile()
    facts["operations"] = hlo.operations(compiled.as_text())
    for number in range(1, layouts.STEPS + 1):
        params, state = compiled(draw(number), state, params)
    facts["end"] = _placements(params, state, mesh)
    return facts, arrays | _arrays(f"{name}/end", params, state)


def _arrays(prefix: str, params: dict, state: Any) -> dict[str, np.ndarray]:
    masks = jax.jit(sparsejax.get_masks)(state)
    kept = {f"{prefix}/mask/{path}": mask for path, mask in masks.items() if mask.ndim}
    return layouts.to_host(kept | {f"{prefix}/param/{path}": leaf for path, leaf in params.items()})


def _placements(params: dict, state: Any, mesh: Mesh | None) -> dict[str, Any]:
    """For each kind of array: into how many parts each is cut, and which are not cut as `LAYOUTS` says."""
    if mesh is None:
        return {}
    kinds = {"params": params, "moments": state.inner_state[0].trace, "masks": state.masks.bits}
    arrays = {
        (kind, path): leaf for kind, tree in kinds.items() for path, leaf in tree.items() if leaf.ndim > 0
    }
    return {
        "parts": {f"{kind} {path}": layouts.parts(leaf) for (kind, path), leaf in arrays.items()},
        "misplaced": [
            f"{kind} {path}" for (kind, path), leaf in arrays.items() if not _placed(path, leaf, mesh)
        ],
    }


def _placed(path: str, leaf: jax.Array, mesh: Mesh) -> bool:
    spec = layouts.LAYOUTS[path][1]
    axes = (*spec, *(None for _ in range(leaf.ndim - len(spec))))
    # A mask of size 1 along an axis (channels) is replicated along it.
    wanted = PartitionSpec(
        *(None if size == 1 else axis for size, axis in zip(leaf.shape, axes, strict=True))
    )
    return leaf.sharding.is_equivalent_to(NamedSharding(mesh, wanted), leaf.ndim)


def run_canary(mesh: Mesh | None) -> tuple[dict, dict[str, np.ndarray]]:
    """What the reader of compiled programs must see: a sharded array gathered whole, and sorted."""
    if mesh is None:
        return {}, {}
    place = layouts.placer(mesh)
    array = place(np.arange(64, dtype=np.float32), PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    program = jax.jit(jnp.sort, out_shardings=everywhere).lower(array).compile()
    return {"operations": hlo.operations(program.as_text())}, {}


def run_repeated(mesh: Mesh | None) -> tuple[dict, dict[str, np.ndarray]]:
    """How many programs are compiled at each call of a jitted step, called as users call it."""
    recipe = layouts.recipes()["static"]
    batches = [layouts.place(layouts.values(seed, recipe), mesh) for seed in range(3)]
    params, state = sparsejax.init(recipe.tx, batches[0])
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **details: compiled.append(event) if "backend_compile" in event else None
    )

    @jax.jit
    def step(grads: dict, state: Any, params: dict) -> tuple[dict, Any]:
        updates, state = recipe.tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    programs = []
    for grads in batches:
        before = len(compiled)
        params, state = step(grads, state, params)
        programs.append(len(compiled) - before)
    return {"programs": programs}, {}


def run_jobs(names: Sequence[str], mesh: Mesh | None) -> tuple[dict, dict[str, np.ndarray]]:
    """Facts and arrays of recipes and other jobs by name; of all where none is named."""
    facts: dict[str, Any] = {"devices": jax.device_count(), "processes": jax.process_count()}
    arrays: dict[str, np.ndarray] = {}
    jobs = {name: (lambda name=name: run_recipe(name, mesh)) for name in layouts.recipes()}
    jobs |= {"training": lambda: run_training(mesh), "population": lambda: run_population(mesh)}
    jobs |= {"canary": lambda: run_canary(mesh), "repeated": lambda: run_repeated(mesh)}
    for name in names or jobs:
        began = time.process_time()
        facts[name], found = jobs[name]()
        arrays |= found
        print(name, f"{time.process_time() - began:.1f} s of processor time", flush=True)
    return facts, arrays


def main() -> None:
    """Parses the command, runs, saves."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--mesh", type=int, nargs=2, required=True)
    parser.add_argument("--recipes", nargs="*", default=None)
    parser.add_argument("--coordinator")
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    devices = options.mesh[0] * options.mesh[1]
    jax.config.update("jax_num_cpu_devices", devices // options.processes)
    if options.coordinator:
        jax.distributed.initialize(
            options.coordinator, options.processes, options.process, initialization_timeout=60
        )
    save(options.folder, *run_jobs(options.recipes or (), layouts.make_mesh(tuple(options.mesh))))


if __name__ == "__main__":
    main()
