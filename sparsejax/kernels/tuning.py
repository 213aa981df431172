"""Which formulation of a product is fastest here: measured once, kept in a table, with a rule where it is silent."""

import functools
import importlib.resources
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import KernelError
from sparsejax.kernels import xla_products
from sparsejax.kernels.topology import Topology, topology_of
from sparsejax.typing import Array

#: What was measured since this process began or was loaded from a file; it goes before the shipped table.
_measured: dict[str, str] = {}


def key(product: str, rows: int, shape: tuple[int, int], data: tuple[int, ...], dtype: Any) -> str:
    """Names a case: chip, product, sizes, block, density and type; rows and density in powers of two.

    Args:
      product: "dsd", "dsd_t" or "sdd".
      rows: of the activations.
      shape: (inputs, outputs) of the matrix.
      data: (capacity, block inputs, block outputs).
      dtype: of the values.

    Returns:
      The key.

    Example:
      >>> key("dsd", 300, (1024, 1024), (26, 64, 64), "float32").split()[1:]
      ['dsd', '256', '1024x1024', '64x64', '1/8', 'float32']
    """
    capacity, *block = data[-3:]
    blocks = (shape[0] // block[0]) * (shape[1] // block[1])
    sparser = int(np.round(np.log2(max(blocks / max(capacity, 1), 1.0))))
    bucket = 2 ** int(np.log2(max(rows, 1)))
    sizes = f"{bucket} {shape[0]}x{shape[1]} {block[0]}x{block[1]} 1/{2**sparser}"
    return f"{_chip()} {product} {sizes} {jnp.dtype(dtype).name}"


def choose(product: str, rows: int, shape: tuple[int, int], data: tuple[int, ...], dtype: Any) -> str:
    """Chooses a formulation: what was measured, else what ships with the library, else a rule of sizes alone.

    The same process always chooses the same, so a resumed run sums in the order of an unbroken one.

    Args:
      product: "dsd", "dsd_t" or "sdd".
      rows: of the activations.
      shape: (inputs, outputs) of the matrix.
      data: (capacity, block inputs, block outputs).
      dtype: of the values.

    Returns:
      One of `xla_products.FORMULATIONS`.

    Example:
      >>> choose("dsd", 1, (8, 8), (4, 2, 2), "float32")
      'batched'
    """
    name = key(product, rows, shape, data, dtype)
    found = _measured.get(name) or _shipped().get(name)
    return found or _rule(product, rows)


def _rule(product: str, rows: int) -> str:
    """Few rows: one batched product, for a loop has a cost a turn. Many: its intermediate would not fit a cache."""
    if rows <= 64:
        return "batched"
    return "loop" if product == "dsd" else "loop_t"


def autotune(
    rows: int, shape: tuple[int, int], block: tuple[int, int], density: float, dtype: Any = "float32",
    *, seconds: float = 0.3,
) -> dict[str, str]:  # fmt: skip
    """Measures the formulations of all three products on this device, in turn, and keeps the fastest.

    Args:
      rows: of the activations.
      shape: (inputs, outputs).
      block: inputs and outputs of one block.
      density: share of live blocks, in (0, 1].
      dtype: of the values.
      seconds: to spend on each product.

    Returns:
      Key to formulation, of the three products; `choose` gives them from now on.

    Raises:
      KernelError: a density outside (0, 1].
    """
    if not 0.0 < density <= 1.0:
        raise KernelError(f"density={density!r}: give a share of the blocks in (0, 1].")
    x, g, data, topology = _example(rows, shape, block, density, dtype)
    products = {
        "dsd": (lambda form: lambda x, d, t: xla_products.dsd(x, d, t, shape[1], form), (x, data)),
        "dsd_t": (lambda form: lambda g, d, t: xla_products.dsd_t(g, d, t, shape[0], form), (g, data)),
        "sdd": (lambda form: lambda x, g, t: xla_products.sdd(x, g, t, block, form), (x, g)),
    }
    found = {}
    for product, (make, arguments) in products.items():
        # Arrays go in as arguments: of a closure they are constants, and XLA multiplies them while compiling.
        programs = {
            form: functools.partial(jax.jit(make(form)), *arguments, topology)
            for form in xla_products.FORMULATIONS
        }
        found[key(product, rows, shape, data.shape, dtype)] = _fastest(programs, seconds)
    _measured.update(found)
    return found


def save(path: str | pathlib.Path) -> None:
    """Writes what was measured, sorted, as JSON."""
    text = json.dumps(dict(sorted(_measured.items())), indent=1)
    pathlib.Path(path).write_text(text + "\n", encoding="utf-8")


def load(path: str | pathlib.Path) -> None:
    """Reads what `save` wrote; `choose` gives it from now on.

    Raises:
      KernelError: an entry that is no formulation.
    """
    entries = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    for name, form in entries.items():
        if form not in xla_products.FORMULATIONS:
            raise KernelError(
                f"{path}: {name!r} is {form!r}, none of {', '.join(xla_products.FORMULATIONS)}."
            )
    _measured.update(entries)


@functools.cache
def _shipped() -> dict[str, str]:
    text = importlib.resources.files("sparsejax.kernels").joinpath("tuned.json").read_text(encoding="utf-8")
    return json.loads(text)


@functools.cache
def _chip() -> str:
    return jax.devices()[0].device_kind.replace(" ", "-")


def _example(
    rows: int, shape: tuple[int, int], block: tuple[int, int], density: float, dtype: Any
) -> tuple[Array, Array, Array, Topology]:
    rng = np.random.default_rng(0)
    grid = shape[0] // block[0], shape[1] // block[1]
    capacity = max(1, round(density * grid[0] * grid[1]))
    mask = np.zeros(grid[0] * grid[1], bool)
    mask[rng.choice(mask.size, capacity, replace=False)] = True
    sizes = ((rows, shape[0]), (rows, shape[1]), (capacity, *block))
    arrays = [jnp.asarray(rng.standard_normal(size), dtype) for size in sizes]
    return (*arrays, topology_of(jnp.asarray(mask.reshape(grid)), capacity))


def _fastest(programs: dict[str, Any], seconds: float) -> str:
    times: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        jax.block_until_ready(program())
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times[next(iter(times))]) < 3:
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            times[name].append(time.perf_counter() - start)
    return min(programs, key=lambda name: float(np.median(times[name])))
