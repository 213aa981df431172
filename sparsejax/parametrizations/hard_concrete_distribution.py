"""The hard-concrete distribution of Louizos et al.: samples, the chance of a gate that is not zero, evaluation."""

import math

import jax
import jax.numpy as jnp

from sparsejax.typing import Array

#: Temperature, and the ends to which the concrete variable is stretched before it is clipped to [0, 1].
BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
#: Where log α is kept: beyond it a gate is as good as decided, and its gradient gone for good.
BOUND = math.log(100.0)
#: The same where a target counts expected sizes: at ``-BOUND`` a gate is still open with a chance of 5 %.
TARGET_BOUND = math.log(1e3)
_SHIFT = BETA * math.log(-LOW / HIGH)


def sample(log_alpha: Array, uniform: Array) -> Array:
    """Draws gates.

    ``s = σ((ln u − ln(1 − u) + log α)/β)``, ``z = clip(s·(ζ − γ) + γ, 0, 1)``; β = 2/3, γ = −0.1, ζ = 1.1

    Args:
      log_alpha: any shape.
      uniform: of the same shape, in (0, 1).

    Returns:
      Gates in [0, 1], differentiable in `log_alpha`.

    Example:
      >>> [round(float(sample(jnp.array(0.0), jnp.array(u))), 4) for u in (0.1, 0.5, 0.9)]
      [0.0, 0.5, 1.0]

    Source: Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", arXiv 1712.01312,
    equations 10 and 11.
    """
    return _stretched(_concrete(log_alpha, uniform.astype(log_alpha.dtype)))


@jax.custom_jvp
def _concrete(log_alpha: Array, uniform: Array) -> Array:
    # σ(x/β) = 1/(1 + e^(−x/β)), and with 1/β = 3/2 the power of the odds is a root: no logarithm is taken.
    odds = (1.0 - uniform) / uniform
    return 1.0 / (1.0 + odds * jnp.sqrt(odds) * jnp.exp(-log_alpha / BETA))


@_concrete.defjvp
def _concrete_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    s = _concrete(*primals)
    return s, s * (1.0 - s) / BETA * tangents[0]  # finite where the exponential is not


def _stretched(s: Array) -> Array:
    return jnp.clip(s * (HIGH - LOW) + LOW, 0.0, 1.0)


def open_probability(log_alpha: Array) -> Array:
    """The chance that a gate is not zero.

    ``P(z ≠ 0) = σ(log α − β·ln(−γ/ζ))``

    Args:
      log_alpha: any shape.

    Returns:
      Probabilities.

    Example:
      >>> round(float(open_probability(jnp.array(0.0))), 4)
      0.8318

    Source: Louizos et al., arXiv 1712.01312, equation 12.
    """
    return jax.nn.sigmoid(log_alpha - _SHIFT)


def evaluation_gate(log_alpha: Array) -> Array:
    """The deterministic gate of an evaluation.

    ``ẑ = clip(σ(log α)·(ζ − γ) + γ, 0, 1)``

    Args:
      log_alpha: any shape.

    Returns:
      Gates in [0, 1].

    Example:
      >>> [round(float(evaluation_gate(jnp.array(a))), 4) for a in (-3.0, 0.0, 3.0)]
      [0.0, 0.5, 1.0]

    Source: Louizos et al., arXiv 1712.01312, equation 13.
    """
    return _stretched(jax.nn.sigmoid(log_alpha))


def soft_gate(log_alpha: Array) -> Array:
    """The gate of an evaluation where another rule decides which are zero: never zero itself.

    ``ẑ = σ(0.8·log α/β)``

    Args:
      log_alpha: any shape.

    Returns:
      Gates in (0, 1).

    Example:
      >>> float(soft_gate(jnp.array(0.0)))
      0.5

    Source: the code of Xia et al., "Structured Pruning Learns Compact and Accurate Models", arXiv 2204.00408.
    """
    return jax.nn.sigmoid(log_alpha * (0.8 / BETA))


def initial_log_alpha(drop_rate: float) -> float:
    """The log α at which a gate is below one half with a given chance, inside the bounds.

    ``log((1 − δ)/δ)``

    Args:
      drop_rate: δ in [0, 1].

    Returns:
      log α.

    Example:
      >>> initial_log_alpha(0.5)
      0.0
    """
    odds = (1.0 - drop_rate) / drop_rate if drop_rate > 0 else math.inf
    return min(max(math.log(odds) if odds > 0 else -math.inf, -BOUND), BOUND)
