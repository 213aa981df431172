"""What each method makes of every layer on the same inputs, the dense network's: the errors that aims are stated in."""

import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.one_shot.methods import METHODS
from experiments.one_shot.options import level
from experiments.one_shot.tasks import Task
from sparsejax.post_training import CalibrationWarning, Solution, layer_error, prune_model
from sparsejax.typing import Array


class Matrix(NamedTuple):
    """A layer, or one of a stack, as solvers see it.

    Attributes:
      weights: (outputs, inputs).
      gram: of the dense network's inputs.
      unseen: the same of batches held out.
    """

    weights: Array
    gram: Array
    unseen: Array


def compared(methods: tuple[str, ...]) -> list[str]:
    """The methods that minimise one and the same error: those that weigh no rows.

    Args:
      methods: names.

    Returns:
      Some of them.

    Example:
      >>> compared(("wanda", "alps, rows weighted"))
      ['wanda']
    """
    return [name for name in methods if "row_weights" not in METHODS[name].options]


def read_matrices(task: Task, config: ConfigDict, draw: int) -> list[Matrix]:
    """Sums the Gram matrices of all layers, once on the batches that are solved on and once on the last.

    Args:
      task: the network.
      config: of the study.
      draw: of calibration data.

    Returns:
      The layers in the order in which the network runs them.
    """
    *batches, last = task.calibration(draw)
    own, unseen = (_grams(task, config, part, last) for part in (batches, [last]))
    return [Matrix(w, gram, other) for (w, gram), (_, other) in zip(own, unseen, strict=True)]


def _grams(task: Task, config: ConfigDict, batches: list[Any], last: Any) -> list[tuple[Array, Array]]:
    found = []

    def keep(weights: Array, gram: Array, **what: Any) -> Solution:
        found.append((weights, gram))
        return Solution(weights, jnp.ones(weights.shape, bool), 0.0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)  # the study's own rows tell of few rows
        prune_model(
            task.fn, task.params, batches, solve=keep, sparsity=0.0, held_out=[last], sequential=False,
            ignore=config.ignore,
        )  # fmt: skip
    return found


def held_out_errors(matrices: list[Matrix], name: str, text: str, damping: float) -> list[float]:
    """The relative squared error of each layer's outputs on the batch held out, solved alone.

    Args:
      matrices: of `read_matrices`.
      name: of the method.
      text: a level.
      damping: λ.

    Returns:
      One number a layer.
    """
    what = {"sparsity": None, "pattern": None, "mask": None, "damping": damping, **level(text)}
    errors = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        for matrix in matrices:
            solved = METHODS[name].solve(matrix.weights, matrix.gram, **what)
            errors.append(layer_error(matrix.weights, solved.weights, matrix.unseen))
    return errors
