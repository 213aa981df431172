"""What each axis of a kernel is for: input, output, spatial, heads, or a stack of layers."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sparsejax.typing import Params

# Names by which linen, nnx and common user code call the projections of attention.
_INTO_HEADS = ("query", "key", "value", "qkv")
_OUT_OF_HEADS = ("out", "output", "o_proj", "out_proj")


class AxisRoles(NamedTuple):
    """The role of every axis of one parameter.

    The roles decide where N:M groups and blocks run, the dimensions of Erdős–Rényi-Kernel, fan-in, and
    which slices are separate layers.

    Attributes:
      input: axes that are contracted with the layer's input (fan-in without the spatial part).
      output: axes that index the layer's outputs.
      spatial: window axes of a convolution.
      stacked: axes along which separate layers are stacked (`nn.scan`, `nnx.scan`, vmapped experts).
      heads: those of the input or output axes that count attention heads.

    Example:
      >>> AxisRoles(input=(2,), output=(3,), spatial=(0, 1))       # a Flax convolution (h, w, in, out)
      AxisRoles(input=(2,), output=(3,), spatial=(0, 1), stacked=(), heads=())
    """

    input: tuple[int, ...]
    output: tuple[int, ...]
    spatial: tuple[int, ...] = ()
    stacked: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()


#: The roles of a model's kernels: ``{path: AxisRoles}``, or values with a field `roles` as `linear_ops` gives them;
#: or a function of the parameters that returns that.
Roles = Mapping[str, Any] | Callable[[Params], Mapping[str, Any]]


def follows_flax(path: str) -> bool:
    """Tells whether a leaf's axes lie as Flax lays them out: its own name is ``kernel``.

    Args:
      path: the leaf's path, joined by ``/``.

    Returns:
      True for a kernel of linen or nnx.

    Example:
      >>> follows_flax("Dense_0/kernel"), follows_flax("layers/0/weight")
      (True, False)
    """
    return path.rsplit("/", 1)[-1] == "kernel"


def flax_axes(path: str, shape: tuple[int, ...]) -> AxisRoles:
    """Reads the roles from the Flax kernel convention, by path and shape.

    A dense kernel is (in, out), a convolution (window…, in, out), a projection into attention heads
    (in, heads, head_dim) and out of them (heads, head_dim, out). Leading axes beyond these are stacked
    layers. A name decides where the shape cannot: three axes are a stack of dense kernels unless the path
    says `conv` or attention, because taking a stack for one layer would rank its layers against each
    other, while taking a 1-d convolution for a stack only ties the sparsity of its window positions.

    Args:
      path: the parameter's path, joined by ``/``.
      shape: the parameter's shape.

    Returns:
      The roles; every axis has exactly one of input, output, spatial, stacked.

    Example:
      >>> flax_axes("attention/query/kernel", (64, 4, 16)).heads
      (1,)
      >>> flax_axes("blocks/Dense_0/kernel", (12, 64, 256)).stacked
      (0,)
    """
    rank = len(shape)
    words = path.lower().split("/")
    owners = words[:-1] or words
    owner = owners[-1]
    if rank < 2:
        return AxisRoles(input=(), output=tuple(range(rank)))
    if rank >= 3 and owner in _INTO_HEADS:
        return _roles(rank, inputs=1, outputs=2, heads=rank - 2)
    if rank >= 3 and owner in _OUT_OF_HEADS and any("att" in word for word in owners):
        return _roles(rank, inputs=2, outputs=1, heads=rank - 3)
    if any("conv" in word for word in owners) or rank in (4, 5):
        return AxisRoles(input=(rank - 2,), output=(rank - 1,), spatial=tuple(range(rank - 2)))
    return _roles(rank, inputs=1, outputs=1)


def _roles(rank: int, inputs: int, outputs: int, heads: int | None = None) -> AxisRoles:
    first_output = rank - outputs
    first_input = first_output - inputs
    return AxisRoles(
        input=tuple(range(first_input, first_output)),
        output=tuple(range(first_output, rank)),
        stacked=tuple(range(first_input)),
        heads=() if heads is None else (heads,),
    )


def sizes(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of the given axes.

    Args:
      shape: a shape.
      axes: axis indices into it.

    Returns:
      One size an axis.

    Example:
      >>> sizes((3, 4, 5), (0, 2))
      (3, 5)
    """
    return tuple(shape[axis] for axis in axes)


def fan_in(shape: tuple[int, ...], axes: AxisRoles) -> int:
    """Inputs that one output sums over: the product of the input and the spatial sizes.

    Args:
      shape: the kernel's shape.
      axes: its roles.

    Returns:
      The fan-in, in weights.

    Example:
      >>> fan_in((3, 3, 16, 32), flax_axes("Conv_0/kernel", (3, 3, 16, 32)))
      144
    """
    return math.prod(sizes(shape, axes.input + axes.spatial))
