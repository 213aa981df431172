"""Refuses, where a program is lowered, a kernel on hardware that it is not written for.

Which device a program is for is known no earlier: a process may compile for a TPU that it does not have.
"""

from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from sparsejax.errors import KernelError
from sparsejax.typing import Array

#: Kind of kernel to the platforms that run it, as JAX calls them in lowering.
PLATFORMS = {"tpu": ("tpu",), "mosaic_gpu": ("cuda", "gpu")}

_on = Primitive("sparsejax_on_hardware")


def on_hardware(x: Array, kind: str) -> Array:
    """Gives `x` back, in programs for the hardware of a kind of kernel only.

    Args:
      x: what the kernel reads.
      kind: a key of `PLATFORMS`.

    Returns:
      `x`.

    Raises:
      KernelError: when the program is lowered for another platform.
    """
    return _on.bind(x, kind=kind)


def _lower(context: mlir.LoweringRuleContext, x: Any, *, kind: str) -> list[Any]:
    others = [name for name in context.module_context.platforms if name not in PLATFORMS[kind]]
    if others:
        raise KernelError(
            f"implementation={kind!r} is a kernel for {PLATFORMS[kind][0]} and this program is for {others[0]}: give "
            "implementation='auto', or for arrays that lie elsewhere than on the default device one of batched, "
            "batched_t, loop, loop_t."
        )
    return [x]


_on.def_impl(lambda x, *, kind: jax.jit(lambda x: on_hardware(x, kind))(x))
_on.def_abstract_eval(lambda x, *, kind: x)
batching.primitive_batchers[_on] = lambda args, axes, *, kind: (on_hardware(args[0], kind), axes[0])
mlir.register_lowering(_on, _lower)
