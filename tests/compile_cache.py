"""Compiled programs, kept from run to run and shared by all processes of the tests: most of a test is compiling."""

import functools
import hashlib
import os
import pathlib
import platform
from importlib.metadata import version

#: What a program depends on beside itself; JAX's own key has the flags and the program.
_KEYED_BY = ("jax", "jaxlib", "numpy")


@functools.cache
def directory() -> pathlib.Path:
    """Where they are kept: below the user's cache folder, by the versions and the processor."""
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    versions = "-".join(version(name) for name in _KEYED_BY)
    return root / "sparsejax" / "programs" / f"py{platform.python_version()}-{versions}-{_processor()}"


def _processor() -> str:
    """Programs are compiled for the instructions of one processor."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    told = next((line for line in lines if line.startswith("flags")), lines[0] if lines else "")
    return hashlib.sha1(told.encode()).hexdigest()[:8]


def quick_flags() -> str:
    """What XLA shall leave out: most of a test is compiling, and it runs each program once or twice.

    RigL's step of a tiny MLP compiles in 0.7 s of CPU in place of 2.9 (JAX 0.10.2); that a program is one module in
    place of up to 32, compiled side by side, halves what is left of AdamW's (0.57 s for 1.24; two cores, two workers).
    """
    flags = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    if version("jaxlib").startswith("0.10."):  # a newer XLA ends the process at a flag that it does not know
        flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
    return " ".join(flags)


def settings() -> dict[str, str]:
    """The variables by which this process and its children find them; JAX reads them when it starts."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(directory()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


#: For processes with several devices: programs that come from the cache may run their collectives in another order on
#: each device, and then wait for one another for good (8 CPU devices, JAX 0.10.2).
WITHOUT = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
