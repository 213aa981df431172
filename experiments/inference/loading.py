"""`load_run`: the model that a finished run left, with its parameters, its masks and a function that predicts."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from experiments.config.stored import config_of
from experiments.data.augment_recipes import build_augment
from experiments.data.loading import pixel_scale
from experiments.data.split import Batch
from experiments.errors import WorkdirError
from experiments.inference.finished import FinishedRun, finished_run
from experiments.models.rebuilding import rebuild
from experiments.models.saved import model_sizes, whole_model
from experiments.run.compute_dtype import Apply, in_dtype
from experiments.run.initial import load_arrays
from sparsejax.errors import EvaluationError, ParamsError
from sparsejax.interop.flax import stateful
from sparsejax.typing import MaskTree, Params


class Trained(NamedTuple):
    """A trained model, ready for inference.

    Attributes:
      predict: ``inputs -> logits``, compiled; see `load_run`.
      apply: ``(params, inputs) -> logits``, the same as a function of the parameters: what `sparsejax.prunable_groups`,
        `sparsejax.model_cost`, `sparsejax.post_training` and `sparsejax.export` take.
      params: effective parameters, exactly zero off the masks; of learned masks without noise, of averages the average.
      masks: bool, like `params`; True = kept.
      batch_stats: running statistics of batch norm; an empty dict without it.
      module: the nnx module that holds them, in evaluation mode; it takes what `apply` makes of `inputs`.
      config: of the run.
      metrics: name to value, as the run measured them at its end.
      result: all of ``result.json``.
    """

    predict: Callable[[ArrayLike], jax.Array]
    apply: Callable[[Params, ArrayLike], jax.Array]
    params: Params
    masks: MaskTree
    batch_stats: Any
    module: nnx.Module
    config: ConfigDict
    metrics: dict[str, float]
    result: dict[str, Any]

    def __repr__(self) -> str:
        """One line in a notebook; the arrays would fill pages."""
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        told = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        what = f"{self.config.model.name} on {self.config.dataset}, {self.config.method}"
        return f"Trained({what}: {size:,} parameters; {told})"


def load_run(workdir: str | pathlib.Path) -> Trained:
    """Loads the model of a finished run of `experiments.train`.

    ``logits = model(params, normalize(inputs))``

    The data set need not be there: what the model was built for stands in ``result.json``.

    Args:
      workdir: of the run, whether it was resumed, extended or neither; of a population one member's directory.

    Returns:
      The model. Its `predict` takes one batch:

      - images (batch, *input shape), floats in [0, 1], or integers as the data set holds them (0 to 255; the digits
        0 to 16), which are scaled; what the run's augmentation does in evaluation (normalising) is done here too;
      - or tokens, integers (batch, up to `config.window`);

      and gives float32 logits, (batch, classes) or for language models (batch, tokens, vocabulary).
      ``predict`` raises EvaluationError at inputs of another shape or type.

    Raises:
      WorkdirError: no run is there, it is not finished (at which step it is), it is a population or a study, another
        version wrote it, or its files are damaged.

    Example:
      >>> import tempfile
      >>> load_run(tempfile.mkdtemp())  # doctest: +ELLIPSIS
      Traceback (most recent call last):
        ...
      experiments.errors.WorkdirError: /... holds no run: give the --workdir of a finished run of experiments.train.
    """
    found = finished_run(workdir)
    config = config_of(found.config)
    module = _module(found, config)
    apply, params, stats = stateful(module)
    masks = load_arrays(found.place / "masks.npz", params, shapes=False)
    run = _inference(config, found.network, apply, stats)
    compiled = jax.jit(run)

    def predict(inputs: ArrayLike) -> jax.Array:
        return compiled(params, _checked(inputs, found.network))

    return Trained(
        predict, run, params, jax.tree.map(jnp.asarray, masks), stats, module, config, found.result["metrics"],
        found.result,
    )  # fmt: skip


def _module(found: FinishedRun, config: ConfigDict) -> nnx.Module:
    """The module with the run's arrays; a model that began from a shrunk one has the widths of its arrays."""
    parts = [_arrays(found.place / "params.npz"), {}]
    if (found.place / "batch_stats.npz").exists():
        parts[1] = _arrays(found.place / "batch_stats.npz")
    sizes = model_sizes(config.model, config.init_from)
    whole = whole_model(sizes, found.network["input_shape"], found.network["classes"])
    try:
        module = rebuild(whole, *parts)
    except ParamsError as error:
        raise WorkdirError(f"{found.place} holds arrays of another model ({error}).") from error
    module.eval()
    return module


def _inference(
    config: ConfigDict, network: dict[str, Any], apply: Apply, stats: Any
) -> Callable[[Params, ArrayLike], jax.Array]:
    forward = in_dtype(apply, config.compute_dtype)
    augment = build_augment(config.augment, network["classes"], train=False)
    images = network["inputs"] == "images"
    scale = pixel_scale(config.dataset) if images else 1

    def run(params: Params, inputs: ArrayLike) -> jax.Array:
        inputs = jnp.asarray(inputs)
        if images and jnp.issubdtype(inputs.dtype, jnp.integer):
            inputs = inputs.astype(jnp.float32) * scale
        if augment is not None:  # labels are none of its business in evaluation
            batch = Batch(inputs, jnp.zeros(len(inputs), jnp.int32))
            inputs = augment(jax.random.key(0), batch).inputs
        return forward(params, stats, inputs, False)[0].astype(jnp.float32)

    return run


def _checked(inputs: ArrayLike, network: dict[str, Any]) -> jax.Array:
    """One batch of what the model was built for."""
    inputs = jnp.asarray(inputs)
    shape, whole = tuple(network["input_shape"]), jnp.issubdtype(inputs.dtype, jnp.integer)
    if network["inputs"] == "images":
        wanted = f"images (batch, {', '.join(map(str, shape))}), floats in [0, 1] or integer pixels"
        fits = inputs.shape[1:] == shape and (whole or jnp.issubdtype(inputs.dtype, jnp.floating))
    else:
        wanted = f"tokens (batch, up to {shape[0]}), integers"
        fits = inputs.ndim == 2 and 0 < inputs.shape[1] <= shape[0] and whole
    if not fits:
        raise EvaluationError(f"predict got {inputs.dtype} {inputs.shape}; this model takes {wanted}.")
    return inputs


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file) as stored:  # np.load alone leaves a broken file open
            return dict(stored)
    except Exception as error:  # zip, NumPy and the file system each raise their own
        raise WorkdirError(f"{path} cannot be read ({error}): train the run again.") from error
