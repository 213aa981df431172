"""Script: real short training runs of the runner on meshes of simulated devices; leaves masks and layouts behind."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from experiments.config.fields import default_config
from experiments.record.checkpoint import checksums
from experiments.run.chunk import stream_step
from experiments.run.prepare import Setup, prepare
from experiments.run.state import TrainState
from experiments.train import chunks
from sparsejax.params.paths import flatten_with_paths
from tests.distributed import hlo, layouts
from tests.distributed.launch import save

#: Name -> sizes of the axes data, fsdp, tensor.
MESHES = {"one": (1, 1, 1), "data": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (1, 1, 8), "mixed": (2, 2, 2)}


def config_of(case: str, data: str) -> ConfigDict:
    """The configuration of ``MODEL_METHOD_MESH``: few steps, at least three mask updates; the ViT trains on blocks."""
    model, method, mesh = case.split("_")
    config = default_config(model)
    config.steps, config.eval_every, config.batch_size = 12, 6, 32
    config.update_every, config.begin_step, config.end_step, config.warmup_steps = 3, 3, 10, 2
    config.method, config.sparsity = method, 0.8
    config.mesh = ConfigDict(dict(zip(training_axes(), MESHES[mesh], strict=True)))
    if model == "mlp":
        config.model.widths = (64,)
    elif model == "vit":
        sizes = {"patch": 4, "width": 32, "depth": 1, "heads": 2, "mlp_dim": 64, "sparse_compute": "blocks"}
        config.model.update(sizes)
        config.block, config.dense_layers = 4, ("head/*", "patch_embedding/*")
        config.sparsity, config.drop_fraction = 0.5, 0.5
        config.end_step = 20  # so that blocks still move at step 9
    else:
        config.dataset, config.data_dir, config.window = "python_text/headers", data, 32
        config.model.update({"width": 64, "depth": 1, "heads": 4, "mlp_dim": 128})
        config.clip_norm, config.ema_decay, config.accumulate = 1.0, 0.9, 2
    return config


def training_axes() -> tuple[str, str, str]:
    """The axes of the mesh, in order."""
    return ("data", "fsdp", "tensor")


def run_case(config: ConfigDict) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Trains; gives the losses, where arrays lay before and after, and the masks after each chunk."""
    setup = prepare(config)
    facts: dict[str, Any] = {"before": places(setup, setup.states[0]), "losses": [], "updates": 0}
    arrays = {}
    for chunk in chunks(config, setup, setup.states, config.steps):
        state = chunk.states[0]
        facts["losses"] += chunk.metrics.loss[:, 0].tolist()
        facts["updates"] += int((chunk.metrics.changed > 0).sum())
        masks = layouts.to_host(setup.method.masks(state.params, state.opt_state))
        paths, leaves, _ = flatten_with_paths(masks)
        kept = {path: mask for path, mask in zip(paths, leaves, strict=True) if mask.ndim}
        arrays |= {f"{int(state.step)}/{path}": mask for path, mask in kept.items()}
    facts["after"] = places(setup, state)
    return facts, arrays


def places(setup: Setup, state: TrainState) -> dict[str, dict[str, int]]:
    """Of each kernel and embedding: into how many parts its parameter, moments, mask and average are cut."""
    found: dict[str, dict[str, int]] = {}
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(state.params)[0]]
    for keys, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        for path in paths:
            if keys[-len(path) :] == path and leaf.ndim > 1:
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                kind = jax.tree_util.keystr(keys[: -len(path)], simple=True, separator=".")
                found.setdefault(name, {})[kind] = layouts.parts(leaf)
    return found


def added_operations(config: ConfigDict) -> dict[str, Any]:
    """What a step moves between devices with masks and, beside it, without."""
    dense = ConfigDict(config)
    dense.method, dense.sparsity = "dense", 0.0
    return {"sparse": operations(config), "dense": operations(dense)}


def operations(config: ConfigDict) -> dict[str, Any]:
    """The collectives of one compiled step on a batch that is given."""
    setup = prepare(config)
    state, recipe = setup.states[0], setup.recipes[0]
    batch = jax.tree.map(
        lambda leaf: jax.device_put(np.asarray(leaf), recipe.batch_sharding),
        setup.source.take(np.arange(config.batch_size)),
    )
    program = stream_step(recipe, state).lower(state, setup.groups[0].members, batch).compile()
    text = program.as_text()
    return {"operations": hlo.operations(text), "conditionals": text.count(" conditional(")}


def checksum_case(config: ConfigDict) -> dict[str, Any]:
    """The checksums of a state that is sharded, and of the same values on one device."""
    state = prepare(config).states[0]
    named = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state))}
    alone = {name: jax.device_put(np.asarray(leaf), jax.devices()[0]) for name, leaf in named.items()}
    cut = sum(isinstance(leaf.sharding, NamedSharding) and layouts.parts(leaf) > 1 for leaf in named.values())
    return {"sharded": checksums(named), "alone": checksums(alone), "cut": cut}


def main() -> None:
    """Runs the cases that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--cases", nargs="+", required=True)
    parser.add_argument("--data", default="")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    jobs = {"operations": added_operations, "checksums": checksum_case}
    facts: dict[str, Any] = {"devices": jax.device_count()}
    arrays: dict[str, np.ndarray] = {}
    for case in options.cases:
        began = time.process_time()
        job, _, name = case.rpartition(":")
        config = config_of(name, options.data or str(Path(options.folder) / "data"))
        if job:
            facts[case] = jobs[job](config)
        else:
            facts[case], found = run_case(config)
            arrays |= {f"{case}/{key}": value for key, value in found.items()}
        print(case, f"{time.process_time() - began:.1f} s of processor time", file=sys.stderr, flush=True)
    save(options.folder, facts, arrays)


if __name__ == "__main__":
    main()
