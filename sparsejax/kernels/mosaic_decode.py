"""One to eight rows times a packed matrix, as Pallas kernels (Mosaic GPU) for Hopper, where bytes are the limit.

A program takes one segment of inputs and one block of outputs: it copies their part of the matrix into shared memory
and walks along the inputs, a lane an output. Where a lane reads next depends on the lane: `shared_gather` is the one
thing that is not Pallas. The segments' sums are added afterwards, outside. No GPU has run them yet: they run in the
interpreter, and the real compiler takes them (`make aot`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from sparsejax.kernels.columns import CHUNK, LANES, sum_segments
from sparsejax.kernels.decode import MOST_ROWS
from sparsejax.kernels.mosaic_gpu import is_hopper
from sparsejax.kernels.places import unpacked
from sparsejax.kernels.values import scaled
from sparsejax.typing import Array

#: Most inputs of a program of N:M, and groups of N:M, of which the first is taken that divides them.
INPUTS, GROUPS = 256, (64, 32, 16, 8, 4)
#: Shared memory of a Hopper that a program may take, in bytes, less some for its barriers.
MEMORY = 226 * 1024


def fits(form: str, w: Any) -> bool:
    """Tells whether this process's device has a kernel for a packed matrix.

    Args:
      form: "bitmap", "deltas" or "n_of_m".
      w: the matrix.
    """
    return is_hopper() and takes(form, w)


def takes(form: str, w: Any) -> bool:
    """Tells whether the sizes fit: outputs that fill the lanes, and shared memory for a block.

    Args:
      form: "bitmap", "deltas" or "n_of_m".
      w: the matrix.

    Example:
      >>> from sparsejax.kernels.n_of_m import pack_n_m
      >>> w = jnp.zeros((64, 128))
      >>> takes("n_of_m", pack_n_m(w, 2, 4)), takes("n_of_m", pack_n_m(w[:, :100], 2, 4))
      (True, False)
    """
    each = w.values.dtype.itemsize
    if form == "n_of_m":
        lanes, groups = _lanes_and_groups(w)
        if not lanes or not groups:
            return False
        size, span = w.places.shape[0], groups * w.share * w.m
        matrix = groups * lanes * (w.values.shape[0] * w.share * each + size)
    else:
        lanes, span = w.layout.lanes, w.layout.span
        rows = CHUNK * (1 + max(1, -(-w.layout.most // CHUNK)))
        index = span * lanes / 8 if form == "bitmap" else rows * lanes / 2
        matrix = rows * lanes * each + index
    return lanes in LANES and matrix + 4 * MOST_ROWS * (span + lanes) < MEMORY


def bitmap(x: Array, w: Any, *, interpret: Any = None) -> Array:
    """``y = x W`` of a `Bitmap`: a lane looks at the bit of each input, and goes on to its next value where it is set.

    Args:
      x: float32 or bfloat16 (rows, inputs), at most 8 rows.
      w: a `Bitmap` that `takes` agrees to.
      interpret: parameters of the interpreter for Mosaic GPU, to run without a card.

    Returns:
      (rows, outputs), of the type of `x`; sums are float32.
    """
    lanes, shift = w.layout.lanes, w.layout.lanes.bit_length() - 1

    def walk(lane: _Lanes, x_s: Any, bits_s: Any, values_s: Any, count: Any) -> list[Array]:
        del count

        def word(at: Any, carry: Any) -> Any:
            place, sums = carry
            bits = bits_s[at]
            for i in range(32):
                step = (bits << (shift - i) if i < shift else bits >> (i - shift)) & lanes
                value = lane.gather(values_s, place).astype(jnp.float32)
                value = jnp.where(step == 0, 0.0, value)  # else it is the next input's, or was never written
                sums = [total + value * x_s[row, at * 32 + i] for row, total in enumerate(sums)]
                place = place + step
            return place, sums

        return lax.fori_loop(0, w.layout.span // 32, word, (lane.numbers(), lane.zeros(x.shape[0])))[1]

    return _by_columns(x, w, lax.bitcast_convert_type(w.bits, jnp.int32), walk, interpret)


def deltas(x: Array, w: Any, *, interpret: Any = None) -> Array:
    """``y = x W`` of `Deltas`: a lane adds each step to its place, and reads the activation there.

    Args:
      x: float32 or bfloat16 (rows, inputs), at most 8 rows.
      w: `Deltas` that `takes` agrees to.
      interpret: as of `bitmap`.

    Returns:
      (rows, outputs), of the type of `x`; sums are float32.
    """
    span = w.layout.span

    def walk(lane: _Lanes, x_s: Any, steps_s: Any, values_s: Any, count: Any) -> list[Array]:
        def pair(at: Any, carry: Any) -> Any:
            place, sums = carry
            both = steps_s[at].astype(jnp.int32)
            for half in range(2):
                place = place + ((both >> (4 * half)) & 15)
                value = values_s[2 * at + half].astype(jnp.float32)
                found = [lane.gather(x_s, place + row * span) for row in range(len(sums))]
                sums = [total + value * x for total, x in zip(sums, found, strict=True)]
            return place, sums

        def pairs(at: Any, carry: Any) -> Any:
            for i in range(4):
                carry = pair(4 * at + i, carry)
            return carry

        start = lane.numbers() * 0, lane.zeros(x.shape[0])
        many = lax.div(count, jnp.int32(8))
        carry = lax.fori_loop(0, many, pairs, start)
        return lax.fori_loop(4 * many, lax.div(count, jnp.int32(2)), pair, carry)[1]

    return _by_columns(x, w, w.steps, walk, interpret)


def n_of_m(x: Array, w: Any, *, interpret: Any = None) -> Array:
    """``y = x W`` of a `PackedNM`: a lane reads, of each group, the activations at its kept places.

    Args:
      x: float32 or bfloat16 (rows, inputs), at most 8 rows.
      w: a `PackedNM` that `takes` agrees to.
      interpret: as of `bitmap`.

    Returns:
      (rows, outputs), of the type of `x`; sums are float32.
    """
    rows, (n, _, outputs), share = x.shape[0], w.values.shape, w.share
    groups = w.places.shape[1]  # as their bytes count them
    lanes, some = _lanes_and_groups(w)
    span = some * share * w.m
    lane = _Lanes(lanes, interpret)
    # Members of a group side by side, so that lanes that read different ones of them do not wait for each other.
    members = x.astype(jnp.float32).reshape(rows, -1, w.m, w.stride).swapaxes(2, 3)
    members = members.reshape(rows, share, groups, w.m).swapaxes(1, 2).reshape(rows, -1)

    def body(*refs: Any) -> None:
        x_ref, places, values, out, x_s, places_s, values_s, out_s, barrier = refs
        s, b = lax.axis_index("s"), lax.axis_index("b")
        part = pl.ds(s * some, some), pl.ds(b * lanes, lanes)
        plgpu.copy_gmem_to_smem(x_ref.at[:, pl.ds(s * span, span)], x_s, barrier)
        plgpu.copy_gmem_to_smem(places.at[:, *part], places_s, barrier)
        plgpu.copy_gmem_to_smem(values.at[:, :, *part], values_s, barrier)
        plgpu.barrier_wait(barrier)

        def group(at: Any, sums: list[Array]) -> list[Array]:
            packed = [places_s[i, at].astype(jnp.int32) for i in range(places_s.shape[0])]
            for i, place in enumerate(unpacked(packed, share * n, w.m)):
                value = values_s[i % n, i // n, at].astype(jnp.float32)
                first = (at * share + i // n) * w.m
                found = [lane.gather(x_s, place + (first + row * span)) for row in range(rows)]
                sums = [total + value * x for total, x in zip(sums, found, strict=True)]
            return sums

        def four(at: Any, sums: list[Array]) -> list[Array]:
            for i in range(4):
                sums = group(4 * at + i, sums)
            return sums

        _write(lax.fori_loop(0, some // 4, four, lane.zeros(rows)), out_s, out, s, b)

    scratch = [
        plgpu.SMEM((rows, span), jnp.float32),
        plgpu.SMEM((w.places.shape[0], some, lanes), jnp.uint8),
        plgpu.SMEM((n, share, some, lanes), w.values.dtype),
        plgpu.SMEM((rows, lanes), jnp.float32),
        plgpu.Barrier(num_arrivals=3),
    ]
    out = jax.ShapeDtypeStruct((groups // some, rows, outputs), jnp.float32)
    values = w.values.reshape(n, share, groups, outputs)
    parts = _kernel(body, out, scratch, lanes, interpret)(members, w.places, values)
    return scaled(parts.sum(0), w.scales).astype(x.dtype)


Walk = Callable[..., list[Array]]


def _by_columns(x: Array, w: Any, index: Array, walk: Walk, interpret: Any) -> Array:
    """What bitmaps and deltas share; `index` is cut as the values are where it has two axes, else by segment."""
    rows, span, lanes, blocks = x.shape[0], w.layout.span, w.layout.lanes, w.layout.blocks
    chunks, by_rows = max(1, -(-w.layout.most // CHUNK)), index.ndim == 2
    each = CHUNK // 2  # rows of the steps: two in a byte
    lane = _Lanes(lanes, interpret)
    padded = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, w.layout.segments * span - x.shape[1])))

    def body(*refs: Any) -> None:
        starts, x_ref, index_ref, values, out, x_s, index_s, values_s, out_s, barrier, arrived = refs
        s, b = lax.axis_index("s"), lax.axis_index("b")
        begin = starts[s * blocks + b]
        count = starts[s * blocks + b + 1] - begin
        turns = lax.div(count + (CHUNK - 1), jnp.int32(CHUNK))
        plgpu.copy_gmem_to_smem(x_ref.at[:, pl.ds(s * span, span)], x_s, barrier)
        if not by_rows:
            plgpu.copy_gmem_to_smem(index_ref.at[s, :, pl.ds(b * lanes, lanes)], index_s, barrier)

        @pl.loop(0, turns)
        def _(turn: Any) -> None:
            here, there = pl.ds(begin + turn * CHUNK, CHUNK), pl.ds(turn * CHUNK, CHUNK)
            plgpu.copy_gmem_to_smem(values.at[here], values_s.at[there], arrived.at[turn])
            if by_rows:
                here = pl.ds(lax.div(begin, jnp.int32(2)) + turn * each, each)
                there = pl.ds(turn * each, each)
                plgpu.copy_gmem_to_smem(index_ref.at[here], index_s.at[there], arrived.at[turn])

        plgpu.barrier_wait(barrier)

        @pl.loop(0, turns)
        def _(turn: Any) -> None:
            plgpu.barrier_wait(arrived.at[turn])

        _write(walk(lane, x_s, index_s, values_s, count), out_s, out, s, b)

    shape = (chunks * each, lanes) if by_rows else (index.shape[1], lanes)
    scratch = [
        plgpu.SMEM((rows, span), jnp.float32),
        plgpu.SMEM(shape, index.dtype),
        plgpu.SMEM(
            ((chunks + 1) * CHUNK, lanes), w.values.dtype
        ),  # a lane that is done looks one row further
        plgpu.SMEM((rows, lanes), jnp.float32),
        plgpu.Barrier(num_arrivals=1 if by_rows else 2),
        plgpu.Barrier(num_arrivals=2 if by_rows else 1, num_barriers=chunks),
    ]
    out = jax.ShapeDtypeStruct((w.layout.segments, rows, blocks * lanes), jnp.float32)
    parts = _kernel(body, out, scratch, lanes, interpret)(w.starts, padded, index, w.values)
    return scaled(sum_segments(parts, w.order), w.scales).astype(x.dtype)


def _write(sums: list[Array], out_s: Any, out: Any, s: Any, b: Any) -> None:
    for row, total in enumerate(sums):
        out_s[row] = total
    plgpu.commit_smem()
    lanes = out_s.shape[1]
    plgpu.copy_smem_to_gmem(out_s, out.at[s, :, pl.ds(b * lanes, lanes)])
    plgpu.wait_smem_to_gmem(0)


def _kernel(body: Any, out: jax.ShapeDtypeStruct, scratch: list, lanes: int, interpret: Any) -> Any:
    return plgpu.kernel(
        body,
        out_type=out,
        grid=(out.shape[0], out.shape[2] // lanes),
        grid_names=("s", "b"),
        scratch_types=scratch,
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        **({} if interpret is None else {"interpret": interpret}),
    )


@dataclasses.dataclass(frozen=True)
class _Lanes:
    """Registers with an entry a lane; the interpreter knows no layouts and no inline code."""

    count: int
    interpret: Any

    @property
    def layout(self) -> Any:
        return plgpu.Layout.WG_STRIDED((self.count,), vec_size=self.count // 128)

    def numbers(self) -> Array:
        if self.interpret is not None:
            return lax.iota(jnp.int32, self.count)
        return plgpu.broadcasted_iota(jnp.int32, (self.count,), 0, layout=self.layout)

    def zeros(self, rows: int) -> list[Array]:
        one = jnp.zeros((self.count,), jnp.float32)
        return [
            one if self.interpret is not None else plgpu.layout_cast(one, self.layout) for _ in range(rows)
        ]

    def gather(self, memory: Any, places: Array) -> Array:
        """One entry of shared memory for each lane, by its flat place."""
        if self.interpret is not None:
            return memory[...].reshape(-1)[places]
        kind = plgpu.ShapeDtypeStruct((self.count,), memory.dtype, layout=self.layout)

        @plgpu.inline_mgpu(arg_types=(plgpu.RefType(), self.layout), return_type=kind)
        def read(context: Any, memory: Any, places: Any) -> Any:
            del context
            from sparsejax.kernels.shared_gather import (
                issue,
            )  # late: it needs the parts of JAX that a GPU has

            return issue(memory, places)

        return read(memory, places)


def _lanes_and_groups(w: Any) -> tuple[int | None, int | None]:
    """Outputs and rows of places of one program, of packed N:M."""
    lanes = next((lanes for lanes in LANES if w.shape[1] % lanes == 0), None)
    groups = w.places.shape[1]
    some = next((some for some in GROUPS if groups % some == 0 and some * w.share * w.m <= INPUTS), None)
    return lanes, some
