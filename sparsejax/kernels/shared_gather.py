"""Reading shared memory at places that differ by thread: Pallas has no such operation, Mosaic GPU's own dialect does.

Like `sparse_wgmma` it needs parts of JAX that are not public, and keeps them in one file.
"""

import importlib
from typing import Any

import numpy as np


def issue(memory: Any, places: Any) -> Any:
    """Reads one entry for each place.

    Args:
      memory: of two axes, rows of shared memory without a swizzle.
      places: int32 registers: places in it, flat.

    Returns:
      Registers that are laid as `places`.
    """
    arrays = importlib.import_module("jax.experimental.mosaic.gpu.fragmented_array")
    utils = importlib.import_module("jax.experimental.mosaic.gpu.utils")
    mlir = importlib.import_module("jax._src.lib.mlir.dialects")
    ir = importlib.import_module("jax._src.lib.mlir").ir
    kind = ir.MemRefType(memory.type).element_type
    flat = utils.memref_fold(memory, 0, 2)

    def read(register: Any) -> Any:
        (length,) = ir.VectorType(register.type).shape
        found = []
        for i in range(length):
            place = mlir.vector.extract(register, dynamic_position=[], static_position=[i])
            found.append(mlir.memref.load(flat, [mlir.arith.index_cast(ir.IndexType.get(), place)]))
        return mlir.vector.from_elements(ir.VectorType.get((length,), kind), found)

    registers = np.empty(places.registers.shape, dtype=object)
    for at, register in np.ndenumerate(places.registers):
        registers[at] = read(register)
    signed = True if isinstance(kind, ir.IntegerType) else None
    return arrays.FragmentedArray(_registers=registers, _layout=places.layout, _is_signed=signed)
