"""Compiles the kernels for TPUs and GPUs that are not here, with their own compilers:  make aot

The compilers come as wheels (`--install DIR`) into a folder of their own. What they find, such as spills and memory
that overflows, goes to a JSON file with hashes of the kernels' sources, which a test compares.
"""

import argparse
import contextlib
import ctypes
import datetime
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
from collections.abc import Iterator
from typing import Any

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

    from experiments.benchmark import aot_cases
    from experiments.benchmark.aot_targets import TPUS, target_device

    wanted = [case for of, case in QUICK if of == chip] if quick else None
    if wanted == []:
        return
    mesh = Mesh(np.array([target_device(chip)]), ("d",))
    place, platform = NamedSharding(mesh, PartitionSpec()), "tpu" if chip in TPUS else "cuda"
    for case in (aot_cases.of_tpus if chip in TPUS else aot_cases.of_gpus)():
        if wanted and case.name not in wanted:
            continue
        row = {"chip": chip, "case": case.name, "block": "x".join(map(str, case.block))}
        begin = time.perf_counter()
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), _output() as said:
            try:
                jitted = jax.jit(case.function, in_shardings=place, out_shardings=place)
                program = jitted.trace(*case.arguments).lower(lowering_platforms=(platform,)).compile()
                row["code_bytes"] = program.memory_analysis().generated_code_size_in_bytes
                row |= _vmem(program.as_text())
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"[:300]
        yield row | _ptxas("".join(said)) | {"seconds": round(time.perf_counter() - begin, 1)}


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
