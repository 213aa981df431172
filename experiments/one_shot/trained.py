"""A network that `experiments.train` trains where that is not done yet, as a function of its parameters."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from rich.console import Console

from experiments import train
from experiments.run.initial import load_arrays
from experiments.run.prepare import Setup, prepare
from sparsejax.typing import Params


def trained(
    base: ConfigDict, directory: pathlib.Path, console: Console
) -> tuple[Callable[..., Any], Params, Setup]:
    """Trains a network, or takes up what an earlier call trained.

    Args:
      base: how.
      directory: the training's workdir is below, ``dense``.
      console: where training reports.

    Returns:
      ``fn(params, inputs) -> logits``, the parameters, and what the run was made of.

    Raises:
      Whatever training raises.
    """
    train.run(base, str(directory / "dense"), console, plots=False)
    setup = prepare(base)
    state = setup.states[0]
    params = load_arrays(directory / "dense" / "params.npz", state.params)

    def fn(p: Params, inputs: jax.Array) -> jax.Array:
        return setup.apply(p, state.batch_stats, inputs, False)[0]

    return fn, jax.tree.map(jnp.asarray, params), setup
