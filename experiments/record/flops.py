"""Training and inference FLOPs from per-layer costs and the densities that were in force."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sparsejax.errors import ParamsError


class Flops(NamedTuple):
    """A cost and what the same would cost dense.

    Attributes:
      total: FLOPs; a multiply and an add are two.
      dense: FLOPs of the dense model doing the same.
    """

    total: float
    dense: float

    @property
    def relative(self) -> float:
        """The cost as a share of the dense one."""
        return self.total / self.dense


def inference_flops(forward: Mapping[str, float], densities: Mapping[str, float]) -> Flops:
    """Costs one example's forward pass.

    ``Σ_l d_l·f_l``, over linear and convolutional layers

    Args:
      forward: parameter path to its dense forward FLOPs f_l an example.
      densities: path to density d_l in [0, 1]; a layer without one is dense.

    Returns:
      The FLOPs an example.

    Raises:
      ParamsError: a density for a layer that has no cost.

    Example:
      >>> inference_flops({"a": 100.0, "b": 50.0}, {"a": 0.1})
      Flops(total=60.0, dense=150.0)
    """
    _check(forward, densities)
    return Flops(
        float(sum(cost * densities.get(path, 1.0) for path, cost in forward.items())),
        float(sum(forward.values())),
    )


def training_flops(
    forward: Mapping[str, float],
    densities: Mapping[str, Sequence[float]],
    *,
    steps: int,
    batch_size: int,
    dense_gradient: Sequence[bool] | None = None,
) -> Flops:
    """Costs a training run by the densities in force at each step.

    ``Σ_t batch·Σ_l f_l·(2·d_l(t) + g_l(t))``, g = 1 where the step needs the dense gradient, else d

    A step costs its forward pass once (f·d) and its backward pass twice: the gradient of the activations
    (f·d) and that of the weights (f·d, or f where a method reads the gradient of absent weights too, which
    RigL does at its update steps only). Dense training so costs 3 f a step. Counted are the multiply-adds of
    layers with weights that could be left out, not what this machine really did: with masks the dense
    products are computed. Biases, activations, the optimizer and the choice of masks are not counted.

    Args:
      forward: parameter path to its dense forward FLOPs f_l an example.
      densities: path to the densities d_l(t) of each step; a layer without them is dense.
      steps: steps of the run.
      batch_size: examples a step.
      dense_gradient: which steps need the dense gradient; None for none.

    Returns:
      The FLOPs of the run.

    Raises:
      ParamsError: densities for a layer without cost, or of another length than `steps`.

    Example:
      >>> training_flops({"a": 10.0}, {"a": [0.5, 0.5]}, steps=2, batch_size=1, dense_gradient=[False, True])
      Flops(total=35.0, dense=60.0)

    Source:
      U. Evci et al., Rigging the Lottery, arXiv:1911.11134, the appendix on FLOPs: the same convention. Its
      (3·f_S·ΔT + 2·f_S + f_D)/(ΔT + 1) for RigL is the mean of the sum above over ΔT plain steps and one
      update.
    """
    _check(forward, densities)
    dense_steps = np.zeros(steps, bool) if dense_gradient is None else np.asarray(dense_gradient, bool)
    total = 0.0
    for path, cost in forward.items():
        density = np.asarray(densities.get(path, np.ones(steps)), np.float64)
        if density.shape != (steps,) or dense_steps.shape != (steps,):
            raise ParamsError(
                f"{path!r}: {density.shape} densities, {dense_steps.shape} gradient marks for {steps} steps."
            )
        total += cost * float(np.sum(2 * density + np.where(dense_steps, 1.0, density)))
    return Flops(batch_size * total, batch_size * 3.0 * steps * float(sum(forward.values())))


def _check(forward: Mapping[str, float], densities: Mapping[str, object]) -> None:
    if unknown := sorted(set(densities) - set(forward)):
        raise ParamsError(
            f"Densities for {unknown}, which have no FLOPs; the layers with FLOPs are {sorted(forward)}."
        )
