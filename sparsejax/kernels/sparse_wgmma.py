"""The PTX of a sparse warpgroup product; like `shared_gather` it needs Mosaic GPU's dialect, which is not public."""

import importlib
from typing import Any

import numpy as np

#: Inputs of one instruction, of which half are kept.
STEP = 32


def issue(a: Any, b: Any, sums: Any, word: Any) -> Any:
    """Issues the sparse products of one turn, and waits for them: 64 outputs, 64 inputs, two instructions.

    Args:
      a: the kept values in shared memory, (64, 32), swizzled as wide as their rows are.
      b: the activations, (rows, 64), likewise; rows are the instruction's columns.
      sums: the accumulator in registers, (64, rows).
      word: the metadata of both instructions, one a thread: the first pair of each four threads has the first one's.

    Returns:
      The sums as registers.
    """
    mma = importlib.import_module("jax.experimental.mosaic.gpu.mma_utils")
    arrays = importlib.import_module("jax.experimental.mosaic.gpu.fragmented_array")
    wgmma = importlib.import_module("jax.experimental.mosaic.gpu.wgmma")
    utils = importlib.import_module("jax.experimental.mosaic.gpu.utils")
    mlir = importlib.import_module("jax._src.lib.mlir.dialects")
    ir = importlib.import_module("jax._src.lib.mlir").ir
    wide = ir.IntegerType.get_signless(64)
    rows = sums.shape[1]
    descriptors = [
        mma.create_descriptor(ref, swizzle, group_size=group, logical_k_major=False)
        for ref, swizzle, group in ((a, STEP * 2, (64, STEP)), (b, STEP * 4, (rows, 2 * STEP)))
    ]
    accumulator = wgmma.WGMMAAccumulator.from_registers(sums)
    registers = accumulator._value.registers.copy()
    number = mlir.vector.extract(word.registers.flat[0], dynamic_position=[], static_position=[0])
    for k in range(2):
        # Half as many values as activations: an instruction's are one step of `create_descriptor`, and two.
        places = [
            wgmma._llvm_add(base, utils.c((k * steps * strides[0]) >> 4, wide))
            for steps, ((base, (_, strides)), _, _) in zip((1, 2), descriptors, strict=True)
        ]
        registers = _instruction(ir, registers, *places, number, k)
    mlir.nvvm.wgmma_commit_group_sync_aligned()
    mlir.nvvm.wgmma_wait_group_sync_aligned(0)
    value = arrays.FragmentedArray(_registers=registers, _layout=accumulator._value.layout, _is_signed=None)
    done = wgmma.WGMMAAccumulator(_value=value, _original_layout=accumulator._original_layout, _sync=False)
    return done.value


def _instruction(ir: Any, registers: np.ndarray, a: Any, b: Any, word: Any, selector: int) -> np.ndarray:
    """One wgmma.mma_async.sp: its sums go in and out through the same registers; neither matrix is transposed."""
    llvm = importlib.import_module("jax._src.lib.mlir.dialects").llvm
    flat = list(registers.flat)
    count = len(flat)
    sums = ",".join(f"${i}" for i in range(count))
    places = ", ".join(f"${2 * count + i}" for i in range(3))
    shape = f"m64n{2 * count}k{STEP}.f32.bf16.bf16"
    text = f"wgmma.mma_async.sp.sync.aligned.{shape} {{{sums}}}, {places}, {selector}, 1, 1, 1, 0, 0;\n"
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
