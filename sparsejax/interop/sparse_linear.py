"""Linear layers of Flax, nnx and linen, whose kernel may be of a sparse form: the same parameters and names."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import lax


class SparseLinear(nnx.Module):
    """``y = x W + b`` for a kernel that is an array or any form of `sparsejax.kernels`, whichever the parameters hold.

    Built with a dense kernel, drawn as `nnx.Linear` (one input and one output axis) and `nnx.LinearGeneral` draw
    theirs. `sparsejax.kernels.start` or `compress` puts a block-sparse one in its place: in the parameters of
    `functional(model)`, or in the module, ``layer.kernel = nnx.Param(w)``.

    Args:
      in_features: inputs; several contract as many last axes.
      out_features: outputs; several become as many axes.
      use_bias: whether there is a bias.
      kernel_init: draws (inputs, outputs), each flattened; LeCun normal when None.
      rngs: gives the key.

    Example:
      >>> from sparsejax.kernels.block_sparse import from_dense
      >>> layer = SparseLinear(4, (2, 3), rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((5, 4))).shape
      (5, 2, 3)
      >>> layer.kernel = nnx.Param(from_dense(jnp.ones((4, 6)), block=(2, 2)))
      >>> layer(jnp.ones((5, 4))).shape
      (5, 2, 3)
    """

    def __init__(
        self,
        in_features: int | Sequence[int],
        out_features: int | Sequence[int],
        *,
        use_bias: bool = True,
        kernel_init: Callable[..., jax.Array] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.in_features, self.out_features = _sizes(in_features), _sizes(out_features)
        flat = math.prod(self.in_features), math.prod(self.out_features)
        kernel = (kernel_init or nnx.initializers.lecun_normal())(rngs.params(), flat, jnp.float32)
        self.kernel = nnx.Param(kernel.reshape(*self.in_features, *self.out_features))
        if use_bias:
            rngs.params()  # Flax draws a key for the bias too: the layers after this one get the same keys
        self.bias = nnx.Param(jnp.zeros(self.out_features, jnp.float32)) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the layer for `x` of shape (…, *in_features): (…, *out_features)."""
        kernel: Any = self.kernel.get_value()
        axes = len(self.in_features)
        leading = x.shape[: x.ndim - axes]
        if not isinstance(kernel, jax.Array):
            y = x.reshape(*leading, math.prod(self.in_features)) @ kernel
            y = y.reshape(*leading, *self.out_features)
        else:
            contracted = tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))
            y = lax.dot_general(x, kernel, (contracted, ((), ())))
        return y if self.bias is None else y + self.bias.get_value()


class SparseDense(linen.Module):
    """`SparseLinear` for linen: `linen.Dense`, whose ``params["kernel"]`` may be any form of `sparsejax.kernels`.

    Args:
      features: outputs.
      use_bias: whether there is a bias.
      kernel_init: draws (inputs, outputs).

    Example:
      >>> from sparsejax.kernels.block_sparse import from_dense
      >>> layer = SparseDense(6)
      >>> params = layer.init(jax.random.key(0), jnp.ones((5, 4)))["params"]
      >>> params["kernel"] = from_dense(params["kernel"], block=(2, 2))
      >>> layer.apply({"params": params}, jnp.ones((5, 4))).shape
      (5, 6)
    """

    features: int
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = linen.initializers.lecun_normal()

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the layer for `x` of shape (…, inputs): (…, features)."""
        held = self.has_variable("params", "kernel")  # `param` would compare its shape with the dense one
        shape = x.shape[-1], self.features
        kernel = (
            self.get_variable("params", "kernel") if held else self.param("kernel", self.kernel_init, shape)
        )
        y = x @ kernel
        return y + self.param("bias", linen.initializers.zeros, (self.features,)) if self.use_bias else y


def _sizes(features: int | Sequence[int]) -> tuple[int, ...]:
    return (features,) if isinstance(features, int) else tuple(features)
