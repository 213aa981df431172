"""Stages that train: from scratch, on masks, towards a teacher, or learning masks; each resumes from checkpoints."""

import copy
import io
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from rich.console import Console

from experiments import train
from experiments.compress.recipe.network import Network
from experiments.compress.recipe.stage import Context, Stage, StageField
from experiments.config.checks import Check, number, one_of, text, whole
from experiments.config.validation import validate_config
from experiments.models.saved import model_of_run
from experiments.run.initial import load_arrays
from experiments.run.methods import METHODS
from sparsejax.interop.flax import stateful
from sparsejax.typing import Params

_LEARNED = tuple(name for name, entry in METHODS.items() if entry.learned or "sparsity" in entry.reads)
_SHARE = number("a share in [0, 1]", lambda x: 0 <= x <= 1)
_FROM_ZERO = number("a number of at least 0", lambda x: x >= 0)
_ABOVE_ZERO = number("a number above 0", lambda x: x > 0)
_RATE = Check(
    "a number above 0, or 0 for a third of the base's",
    lambda x: isinstance(x, int | float) and not isinstance(x, bool) and x >= 0,
)
_STEPS = Check(f"{whole(1).text}, or 0 for half of the base's", whole(0).holds)


def _scratch(context: Context, network: Network | None, options: ConfigDict, place: pathlib.Path) -> Network:
    """Trains the base; or takes over what a finished run of it left."""
    del network
    config = copy.deepcopy(context.base).unlock()
    sizes, shape, classes = config.model.to_dict(), context.test.input_shape, context.test.classes
    if options.init_from:
        return Network(sizes, shape, classes, _read(sizes, "", shape, classes, options.init_from))
    return _trained(config, Network(sizes, shape, classes, {}), place)


def _fine_tune(context: Context, network: Network, options: ConfigDict, place: pathlib.Path) -> Network:
    """Trains on, inside the masks where there are any."""
    return _trained(_config(context, network, options), network, place)


def _distil(context: Context, network: Network, options: ConfigDict, place: pathlib.Path) -> Network:
    """Trains on towards the logits of an earlier stage."""
    config = _config(context, network, options)
    _teach(config, context, options)
    return _trained(config, network, place)


def _learn_masks(context: Context, network: Network, options: ConfigDict, place: pathlib.Path) -> Network:
    """Trains on with a method that makes masks."""
    config = _config(context, network, options)
    config.method, config.sparsity = options.method, options.sparsity
    config.begin_step, config.end_step = 0, int(options.ramp * config.steps)
    config.update_every = max(1, min(config.update_every, config.steps // 20))
    if options.teacher:
        _teach(config, context, options)
    return _trained(config, network, place, masks=True)


def _config(context: Context, network: Network, options: ConfigDict) -> ConfigDict:
    config = copy.deepcopy(context.base).unlock()
    config.steps = options.steps or max(1, context.base.steps // 2)
    config.schedule_steps, config.decay_steps = config.steps, ()
    config.warmup_steps = int(options.warmup * config.steps)
    config.learning_rate = options.learning_rate or context.base.learning_rate / 3
    config.begin_step = config.end_step = 0
    config.checkpoint_every = min(config.checkpoint_every, config.steps)
    config.init_from = str(network.place.absolute())
    config.method = "dense" if network.masks is None else "fixed"
    return config


def _teach(config: ConfigDict, context: Context, options: ConfigDict) -> None:
    config.teacher = str(context.places[options.teacher].absolute())
    config.distill_weight, config.distill_temperature = options.weight, options.temperature
    config.distill_layers = options.layers


def _trained(config: ConfigDict, network: Network, place: pathlib.Path, masks: bool = False) -> Network:
    """Runs a training, which takes up what a killed one left, and reads its arrays."""
    validate_config(config)
    where = place / "training"
    train.run(config, str(where), Console(file=io.StringIO()), plots=False)
    found = _read(network.sizes, config.init_from, network.input_shape, network.classes, str(where))
    kept = network.masks
    if masks:
        kept = jax.tree.map(jnp.asarray, load_arrays(where / "masks.npz", found["params"], shapes=False))
    return network._replace(variables=found, masks=kept, stored_bytes=None)


def _read(sizes: Any, origin: str, shape: tuple[int, ...], classes: int, directory: str) -> dict[str, Params]:
    template = stateful(model_of_run(sizes, origin, shape, classes))
    where = pathlib.Path(directory)
    params = load_arrays(where / "params.npz", template.params)
    stats: Any = {}
    if jax.tree.leaves(template.batch_stats):
        stats = load_arrays(where / "batch_stats.npz", template.batch_stats)
    return jax.tree.map(jnp.asarray, {"params": params, "batch_stats": stats})


_TUNING = {
    "steps": StageField(0, _STEPS),
    "learning_rate": StageField(0.0, _RATE),
    "warmup": StageField(0.0, _SHARE),  # of the steps, until the rate is whole
}
_TEACHING = {
    "weight": StageField(1.0, _SHARE),  # of the logits; the labels have the rest
    "temperature": StageField(1.0, _ABOVE_ZERO),
    "layers": StageField(0.0, _FROM_ZERO),  # weight of the hidden states
}

TRAIN = Stage(_scratch, {"init_from": StageField("", text("a workdir, or ''"))}, first=True)
FINE_TUNE = Stage(_fine_tune, _TUNING)
DISTIL = Stage(_distil, {**_TUNING, "teacher": StageField("dense", text("a label")), **_TEACHING})
LEARN_MASKS = Stage(
    _learn_masks,
    {
        **_TUNING,
        "method": StageField("gmp", one_of(_LEARNED)),
        "sparsity": StageField(0.5, _SHARE),
        "ramp": StageField(0.5, _SHARE),  # of the steps, until the masks are at their sparsity
        "teacher": StageField("", text("a label, or '' for none")),
        **_TEACHING,
    },
)
