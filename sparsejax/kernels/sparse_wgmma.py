"""The PTX of a sparse warpgroup product; like `shared_gather` it needs Mosaic GPU's dialect, which is not public."""

import importlib
from typing import Any

import numpy as np


def issue(a: Any, b: Any, sums: Any, words: Any) -> Any:
    """Issues the sparse products of one tile: 64 rows, 128 deep, 128 columns, four instructions of k = 32.

    Args:
      a: the kept values in shared memory, swizzled by 128 bytes.
      b: the dense tile, likewise.
      sums: the accumulator in registers.
      words: each instruction's metadata, a word a thread.

    Returns:
      The sums as registers.
    """
    modules = {
        name: importlib.import_module(f"jax.experimental.mosaic.gpu.{name}") for name in ("wgmma", "utils")
    }
    mma = importlib.import_module("jax.experimental.mosaic.gpu.mma_utils")
    arrays = importlib.import_module("jax.experimental.mosaic.gpu.fragmented_array")
    mlir = importlib.import_module("jax._src.lib.mlir.dialects")
    ir = importlib.import_module("jax._src.lib.mlir").ir
    nvvm, vector = mlir.nvvm, mlir.vector
    wgmma, utils = modules["wgmma"], modules["utils"]
    wide = ir.IntegerType.get_signless(64)
    options = {"swizzle": 128, "large_tile": (64, 64)}
    (a_base, a_strides), _, _ = mma.create_descriptor(
        a, group_size=(64, 64), logical_k_major=False, **options
    )
    (b_base, b_strides), (_, b_group), _ = mma.create_descriptor(
        b, group_size=(64, 128), logical_k_major=True, **options
    )
    accumulator = wgmma.WGMMAAccumulator.from_registers(sums)
    registers = accumulator._value.registers.copy()
    for k, word in enumerate(words):
        a_offset = (k * a_strides[1][0]) >> 4
        b_offset = mma.encode_addr((k // 2) * b_group) + (((k % 2) * 2 * b_strides[1][0]) >> 4)
        descriptors = [
            wgmma._llvm_add(base, utils.c(offset, wide))
            for base, offset in ((a_base, a_offset), (b_base, b_offset))
        ]
        number = vector.extract(word.registers.flat[0], dynamic_position=[], static_position=[0])
        registers = _instruction(ir, registers, *descriptors, number)
    nvvm.wgmma_commit_group_sync_aligned()
    nvvm.wgmma_wait_group_sync_aligned(0)
    value = arrays.FragmentedArray(_registers=registers, _layout=accumulator._value.layout, _is_signed=None)
    done = wgmma.WGMMAAccumulator(_value=value, _original_layout=accumulator._original_layout, _sync=False)
    return done.value


def _instruction(ir: Any, registers: np.ndarray, a: Any, b: Any, word: Any) -> np.ndarray:
    """One wgmma.mma_async.sp: its sums go in and out through the same registers."""
    llvm = importlib.import_module("jax._src.lib.mlir.dialects").llvm
    flat = list(registers.flat)
    count = len(flat)
    sums = ",".join(f"${i}" for i in range(count))
    places = ", ".join(f"${2 * count + i}" for i in range(3))
    text = f"wgmma.mma_async.sp.sync.aligned.m64n{2 * count}k32.f32.bf16.bf16 {{{sums}}}, {places}, 0, 1, 1, 1, 0, 1;\n"
    ties = ",".join(["=f"] * count + [str(i) for i in range(count)] + ["l", "l", "r"])
    kind = ir.VectorType.get((1,), ir.F32Type.get())
    made = llvm.inline_asm(
        llvm.StructType.get_literal([kind] * count),
        [*flat, a, b, word],
        text,
        ties,
        asm_dialect=0,
        has_side_effects=True,
    )
    out = [llvm.extractvalue(kind, made, [i]) for i in range(count)]
    return np.array(out, dtype=object).reshape(registers.shape)
