"""The multilayer perceptron; with its default widths it is LeNet-300-100."""

from collections.abc import Sequence

import jax
from flax import nnx


class MLP(nnx.Module):
    """Dense layers with ReLU between them: ``x ← relu(x W_i + b_i)``, the last one linear.

    The layers are called ``dense_0``, ``dense_1``, … so that paths read ``dense_0/kernel``.

    Args:
      inputs: features of an example once flattened.
      classes: logits.
      widths: hidden units of each hidden layer.
      rngs: draws the kernels (LeCun normal, flax's default).

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> MLP(inputs=784, classes=10, rngs=nnx.Rngs(0))(jnp.ones((2, 28, 28))).shape
      (2, 10)

    Source:
      Y. LeCun et al., Gradient-based learning applied to document recognition, 1998 (300-100, there with
      tanh units); S. Han et al., arXiv:1506.02626, Table 1 (267K parameters).
    """

    def __init__(
        self, *, inputs: int, classes: int, widths: Sequence[int] = (300, 100), rngs: nnx.Rngs
    ) -> None:
        sizes = (inputs, *widths, classes)
        self.depth = len(sizes) - 1
        for i in range(self.depth):
            setattr(self, f"dense_{i}", nnx.Linear(sizes[i], sizes[i + 1], rngs=rngs))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes logits.

        Args:
          images: (batch, …), flattened to (batch, inputs).

        Returns:
          Logits of shape (batch, classes).
        """
        x = images.reshape(images.shape[0], -1)
        for i in range(self.depth):
            x = getattr(self, f"dense_{i}")(x)
            x = jax.nn.relu(x) if i + 1 < self.depth else x
        return x
