"""Few rows times packed N:M weights as a Pallas kernel for a TPU: unpacked in fast memory, a tile at a time.

The members of a group are put back by comparing places, whole registers at once, and each of the m slabs is multiplied
by its share of the activations. So the slow memory gives the packed bytes only. No TPU has run it yet: it runs in the
interpreter, and the real compiler takes it (`make aot`).

Single weights have no such kernel here: they would need a different entry of a long column in every lane, which a TPU
reads within eight rows only.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from sparsejax.kernels.places import unpacked
from sparsejax.kernels.values import scaled
from sparsejax.typing import Array

#: Outputs and groups of one tile; the first that divide them are taken.
OUTPUTS, GROUPS = (512, 256, 128), (256, 128)
#: Rows are filled up to what a register of 16-bit numbers holds.
ROWS = 16


def fits(form: str, w: Any) -> bool:
    """Tells whether the kernel can do it: N:M, outputs and groups of multiples of 128.

    Args:
      form: "n_of_m", or another, for which there is none.
      w: the packed matrix.

    Example:
      >>> from sparsejax.kernels.n_of_m import pack_n_m
      >>> w = jnp.zeros((1024, 128))
      >>> fits("n_of_m", pack_n_m(w, 2, 4)), fits("n_of_m", pack_n_m(w[:64], 2, 4))
      (True, False)
    """
    return form == "n_of_m" and w.shape[1] % OUTPUTS[-1] == 0 and w.places.shape[1] % GROUPS[-1] == 0


def n_of_m(x: Array, w: Any, *, interpret: Any = False) -> Array:
    """``y = x W`` of a `PackedNM`.

    Args:
      x: float32 or bfloat16 (rows, inputs).
      w: a `PackedNM` that `fits` agrees to.
      interpret: True, or `pltpu.InterpretParams`, to run without a TPU.

    Returns:
      (rows, outputs), of the type of `x`; sums are float32.
    """
    rows, (n, _, outputs) = x.shape[0], w.values.shape
    tall = -(-rows // ROWS) * ROWS
    share, (size, groups, _) = w.share, w.places.shape  # groups as their bytes count them
    wide = next(size for size in OUTPUTS if outputs % size == 0)
    deep = next(size for size in GROUPS if groups % size == 0)
    slabs = x.reshape(rows, -1, w.m, w.stride).transpose(2, 0, 1, 3).reshape(w.m, rows, share, groups)
    slabs = jnp.pad(slabs.swapaxes(1, 2), ((0, 0), (0, 0), (0, tall - rows), (0, 0)))
    call = pl.pallas_call(
        functools.partial(_kernel, n=n, m=w.m, share=share),
        grid=(outputs // wide, groups // deep),
        in_specs=[
            pl.BlockSpec((w.m, share, tall, deep), lambda o, g: (0, 0, 0, g)),
            pl.BlockSpec((size, deep, wide), lambda o, g: (0, g, o)),
            pl.BlockSpec((n, share, deep, wide), lambda o, g: (0, 0, g, o)),
        ],
        out_specs=pl.BlockSpec((tall, wide), lambda o, g: (0, o)),
        out_shape=jax.ShapeDtypeStruct((tall, outputs), jnp.float32),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="packed_n_of_m",
    )
    return scaled(call(slabs, w.places, w.values.reshape(n, share, groups, outputs))[:rows], w.scales).astype(
        x.dtype
    )


def _kernel(
    x_ref: Any, places_ref: Any, values_ref: Any, out_ref: Any, *, n: int, m: int, share: int
) -> None:
    """One tile of groups, added to the sums of its outputs."""

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        out_ref[...] = jnp.zeros_like(out_ref)

    packed = [places_ref[i].astype(jnp.int32) for i in range(places_ref.shape[0])]
    places = unpacked(packed, share * n, m)
    total = out_ref[...]
    for part in range(share):
        kept = [(places[part * n + j], values_ref[j, part].astype(jnp.float32)) for j in range(n)]
        for member in range(m):
            slab = sum(jnp.where(place == member, value, 0.0) for place, value in kept)
            total += lax.dot_general(
                x_ref[member, part],
                slab.astype(x_ref.dtype),
                (((1,), (0,)), ((), ())),
                preferred_element_type=jnp.float32,
            )
    out_ref[...] = total
