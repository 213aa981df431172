"""Compiles the kernels for TPUs and GPUs that are not here, with their own compilers:  make aot

The compilers come as wheels (`--install DIR`) into a folder of their own. What they find, such as spills and memory
that overflows, goes to a JSON file with hashes of the kernels' sources, which a test compares.
"""

import argparse
import contextlib
import ctypes
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_HERE = pathlib.Path(__file__).parent
#: The last full result, committed.
RESULTS = _HERE / "aot_results.json"
#: The sources whose hashes it holds.
SOURCES = (
    "tpu.py",
    "tpu_decode.py",
    "mosaic_gpu.py",
    "mosaic_decode.py",
    "shared_gather.py",
    "sparse_tensor_cores.py",
    "sparse_wgmma.py",
    "semi_structured.py",
    "columns.py",
    "places.py",
    "topology.py",
)
#: In this order.
CHIPS = ("v5e", "v6e", "H100", "H200")
#: A third of the cases, for every submission.
QUICK = (("v5e", "dsd"), ("H100", "dsd"), ("H100", "sdd"))


class Target(NamedTuple):
    """A case: what to compile, of arguments that are shapes."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    block: tuple[int, int]


def main(argv: list[str] | None = None) -> int:
    """Installs the wheels, or compiles; returns 1 where a kernel does not compile or spills."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark.aot", description=__doc__)
    parser.add_argument("--install", metavar="DIR", help="get the compilers' wheels into DIR, and no more")
    parser.add_argument("--quick", action="store_true", help="three kernels")
    parser.add_argument("--out", metavar="PATH", help="write the result")
    parser.add_argument(
        "--chip", choices=CHIPS, help="compile for one chip, and print its rows as JSON lines"
    )
    arguments = parser.parse_args(argv)
    if arguments.install:
        return install(pathlib.Path(arguments.install))
    if arguments.chip:
        for row in chip_rows(arguments.chip, arguments.quick):
            print(json.dumps(row), flush=True)
        return 0
    chips = dict.fromkeys(chip for chip, _ in QUICK) if arguments.quick else CHIPS
    rows = [row for chip in chips for row in _in_a_process(chip, arguments.quick)]
    if arguments.out:
        _write(pathlib.Path(arguments.out), rows)
    bad = [row for row in rows if "error" in row or row.get("spill_bytes")]
    print(f"{len(rows) - len(bad)} of {len(rows)} compile without spills.")
    return int(bool(bad))


#: Without these the compilers need a card, the assembler says nothing of registers and spills, and 2:4 is refused.
_REPORTING = {
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "MOSAIC_GPU_DUMP_PTXAS": "1",
    "SPARSEJAX_SPARSE_TENSOR_CORES": "1",
    "TPU_SKIP_MDS_QUERY": "1",
}


def _in_a_process(chip: str, quick: bool) -> Iterator[dict[str, Any]]:
    """The rows of a chip, printed as they come; a process each, as compiled kernels are shared within one."""
    command = [sys.executable, "-m", "experiments.benchmark.aot", "--chip", chip, *(["--quick"] * quick)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | _REPORTING) as process:
        for line in process.stdout:
            row = json.loads(line)
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            yield row
    if process.returncode:
        yield {"chip": chip, "case": "all", "error": f"its process ended with {process.returncode}"}


def packages() -> list[str]:
    """The wheels that hold the compilers for the JAX that is installed."""
    jax = importlib.metadata.version("jax")
    libtpu = "0.0.42.*" if jax.startswith("0.10.") else "0.0.48.*"
    cuda = [f"nvidia-{name}<13.1" for name in ("cuda-nvcc", "nvvm", "cuda-crt", "cuda-runtime")]
    return [f"libtpu=={libtpu}", f"jax-cuda13-plugin=={jax}", f"jax-cuda13-pjrt=={jax}", *cuda]


def install(folder: pathlib.Path) -> int:
    """Gets the wheels, once; where they cannot be had it says so and leaves no folder."""
    if (folder / "libtpu").exists() and (folder / "jax_plugins").exists():
        return 0
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*command, *packages()], check=False, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"make aot is skipped: the compilers' wheels cannot be had here ({reason}).")
        return 3
    return 0


def hashes() -> dict[str, str]:
    """SHA-256 of each source of the kernels."""
    import sparsejax.kernels

    folder = pathlib.Path(sparsejax.kernels.__file__).parent
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SOURCES}


def chip_rows(chip: str, quick: bool) -> Iterator[dict[str, Any]]:
    """Compiles what there is for a chip, and tells what its compiler said."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from experiments.benchmark.aot_targets import TPUS, target_device

    wanted = [case for of, case in QUICK if of == chip] if quick else None
    if wanted == []:
        return
    mesh = Mesh(np.array([target_device(chip)]), ("d",))
    place, platform = NamedSharding(mesh, PartitionSpec()), "tpu" if chip in TPUS else "cuda"
    for target in (tpu_targets if chip in TPUS else gpu_targets)():
        if wanted and target.name not in wanted:
            continue
        row = {"chip": chip, "case": target.name, "block": "x".join(map(str, target.block))}
        begin = time.perf_counter()
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), _output() as said:
            try:
                jitted = jax.jit(target.function, in_shardings=place, out_shardings=place)
                program = jitted.trace(*target.arguments).lower(lowering_platforms=(platform,)).compile()
                row["code_bytes"] = program.memory_analysis().generated_code_size_in_bytes
                row |= _vmem(program.as_text())
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"[:300]
        yield row | _ptxas("".join(said)) | {"seconds": round(time.perf_counter() - begin, 1)}


def tpu_targets() -> list[Target]:
    """The TPU kernels in both types, and a step of training through them."""
    import jax.numpy as jnp

    from sparsejax.kernels import tpu, tpu_decode

    targets = []
    for dtype in (jnp.bfloat16, jnp.float32):
        suffix = "" if dtype == jnp.bfloat16 else " float32"
        for target in _products(tpu, 1024, 2048, (128, 128), dtype):
            targets.append(target._replace(name=target.name + suffix))
    wide = [
        target._replace(name=f"{target.name} wide")
        for target in _products(tpu, 1024, 4096, (256, 512), jnp.bfloat16)
    ]
    return [*targets, *wide, *_decodes(tpu_decode, ("n_of_m",)), _training_step("tpu", 512)]


def gpu_targets() -> list[Target]:
    """The Hopper kernels, the sparse tensor cores, and a step of training."""
    import jax.numpy as jnp

    from sparsejax.kernels import mosaic_decode, mosaic_gpu

    targets = []
    for block in mosaic_gpu.BLOCKS:
        for target in _products(mosaic_gpu, 4096, 4096, block, jnp.bfloat16):
            if target.name != "sdd" or block[0] >= 128:
                targets.append(
                    target._replace(name=target.name if block[0] == 128 else f"{target.name} {block[0]}")
                )
    decodes = _decodes(mosaic_decode, ("n_of_m", "bitmap", "deltas"))
    return [*targets, *_semi_structured(4096), *decodes, _training_step("mosaic_gpu", 512)]


def _semi_structured(size: int) -> list[Target]:
    """A square 2:4 matrix on sparse tensor cores, in both tiles of rows."""
    import jax
    import jax.numpy as jnp

    from sparsejax.kernels import SemiStructured, sparse_tensor_cores

    values = jax.ShapeDtypeStruct((size, size // 2), jnp.bfloat16)
    w = SemiStructured(values, jax.ShapeDtypeStruct((size // 64, size // 64, 128), jnp.int32), (size, size))
    x = jax.ShapeDtypeStruct((size, size), jnp.bfloat16)
    return [
        Target(
            f"2:4 tensor cores, {tile[0]} rows",
            functools.partial(sparse_tensor_cores.multiply, tile=tile),
            (x, w),
            (4, 1),
        )
        for tile in sparse_tensor_cores.TILES
    ]


def _products(kernels: Any, rows: int, size: int, block: tuple[int, int], dtype: Any) -> list[Target]:
    """The three products of a square matrix of which a tenth of the blocks is live."""
    import jax
    import jax.numpy as jnp

    from sparsejax.kernels.topology import topology_of

    shape = lambda sizes, kind=dtype: jax.ShapeDtypeStruct(sizes, kind)  # noqa: E731
    grid = size // block[0], size // block[1]
    capacity = max(1, grid[0] * grid[1] // 10)
    topology = jax.eval_shape(lambda mask: topology_of(mask, capacity), shape(grid, jnp.bool_))
    x, data = shape((rows, size)), shape((capacity, *block))
    return [
        Target("dsd", lambda x, data, t: kernels.dsd(x, data, t, size), (x, data, topology), block),
        Target("dsd_t", lambda g, data, t: kernels.dsd_t(g, data, t, size), (x, data, topology), block),
        Target("sdd", lambda x, g, t: kernels.sdd(x, g, t, block), (x, x, topology), block),
    ]


def _decodes(kernels: Any, forms: tuple[str, ...]) -> list[Target]:
    """One row in bfloat16, and eight by eight-bit values, of matrices packed at a half."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from sparsejax.kernels import pack_bitmap, pack_deltas, pack_n_m

    size, targets = 1024, []
    inputs = np.arange(size)[:, None]
    # Two of each four that stand a quarter of the inputs apart, and half of the single weights.
    half = (inputs + inputs // (size // 2)) % 2 == 0
    dense = jnp.asarray(np.broadcast_to(half, (size, size)), jnp.bfloat16)
    packs = {"bitmap": pack_bitmap, "deltas": pack_deltas, "n_of_m": functools.partial(pack_n_m, n=2, m=4)}
    for form in forms:
        for rows, values in ((1, "float"), (8, "int8")):
            w = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), packs[form](dense, values=values)
            )
            x = jax.ShapeDtypeStruct((rows, size), jnp.bfloat16)
            name = f"{form} decode, {rows} row{'s' * (rows > 1)}, {values}"
            targets.append(Target(name, getattr(kernels, form), (x, w), (1, 1)))
    return targets


def _training_step(implementation: str, rows: int) -> Target:
    """A whole step of RigL in the compressed form on two layers: gradients, scores, moments, rewiring."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    import optax

    import sparsejax
    from sparsejax.kernels import start, train_compressed, with_probes
    from sparsejax.kernels.block_sparse import is_block_sparse

    block, width, dtype = (128, 128), 512, jnp.bfloat16
    recipe = functools.partial(
        sparsejax.rigl, sparsity=0.75, total_steps=100, update_every=10, key=jax.random.key(0)
    )
    tx = train_compressed(optax.adamw(1e-3), recipe, block=block)

    def begin() -> Any:
        drawn = {f"dense_{i}": {"kernel": jnp.ones((width, width), dtype)} for i in range(2)}
        params, state = start(tx, drawn, {f"dense_{i}/kernel": 4 for i in range(2)})
        chosen = lambda w: dataclasses.replace(w, implementation=implementation)  # noqa: E731
        return jax.tree.map(chosen, params, is_leaf=is_block_sparse), state

    def loss(params: Any, x: Any) -> Any:
        hidden = jax.nn.relu(x @ params["dense_0"]["kernel"])
        return jnp.mean(jnp.square((hidden @ params["dense_1"]["kernel"]).astype(jnp.float32)))

    def step(params: Any, state: Any, x: Any) -> Any:
        grads = jax.grad(loss, allow_int=True)(params, x)
        dense = lambda: jax.grad(loss, allow_int=True)(with_probes(params), x)  # noqa: E731
        updates, state = tx.update(grads, state, params, dense_grads_fn=dense)
        return optax.apply_updates(params, updates), state

    params, state = jax.eval_shape(begin)
    return Target("training step", step, (params, state, jax.ShapeDtypeStruct((rows, width), dtype)), block)


def _vmem(program: str) -> dict[str, int]:
    """What a TPU's compiler gave its largest kernel of the fast memory (memory space 1 of its listing)."""
    used = re.findall(
        r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"\d+","size":"(\d+)"', program
    )
    return {"vmem_bytes": max(map(int, used))} if used else {}


def _ptxas(text: str) -> dict[str, int]:
    """What the GPU's assembler says: the most registers of a kernel, and all bytes that were spilled."""
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", text)]
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", text)]
    return {"registers": max(registers), "spill_bytes": sum(spills)} if registers else {}


@contextlib.contextmanager
def _output() -> Iterator[list[str]]:
    """Collects what compilers write to the process's standard output and error, below Python."""
    said: list[str] = []
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    saved = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            flush(None)
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            file.seek(0)
            said.append(file.read())


def _write(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    from experiments.benchmark.harness import write_text

    names = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "nvidia-cuda-nvcc")
    versions = {
        "python": sys.version.split()[0],
        **{name: importlib.metadata.version(name) for name in names},
    }
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions,
        "sources": hashes(),
        "rows": rows,
    }
    write_text(str(path), json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
