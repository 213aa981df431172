"""The fields of a run's configuration with their defaults, and the check that they make sense together."""

import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from experiments.config.checks import check_names, choice, is_whole, require
from experiments.config.learned import LEARNED_METHODS, check_learned, check_teacher
from experiments.config.model_fields import MODELS, validate_model
from experiments.errors import ConfigError

METHODS = (
    *("dense", "gmp", "rigl", "set", "static", "snip", "one_shot", "ac_dc", "fixed"),
    *LEARNED_METHODS,
)
DISTRIBUTIONS = ("uniform", "erdos_renyi", "erdos_renyi_kernel", "global")
OPTIMIZERS = ("adamw", "sgd")
DTYPES = ("float32", "bfloat16")
SECOND_MOMENTS = ("zero", "mean")
MESH_AXES = ("data", "fsdp", "tensor")


def default_config(model: str = "mlp") -> ConfigDict:
    """Makes a configuration with every field; a config file changes the few that it is about.

    Args:
      model: whose sizes `config.model` holds; a key of `MODELS`.

    Returns:
      An unlocked `ConfigDict`. Update times follow `steps` when only that is overridden.

    Raises:
      ConfigError: an unknown model.

    Example:
      >>> config = default_config()
      >>> config.steps = 1000
      >>> config.end_step
      750
    """
    choice(model, MODELS, "model.name")
    config = ConfigDict()
    config.seed = 0
    config.steps = 5000
    steps = config.get_ref("steps")  # what is made from it follows when only `steps` is overridden
    config.batch_size = 64
    config.accumulate = 1  # parts that a batch is cut into to save memory
    config.eval_every = 100  # steps of one compiled chunk: metrics and the progress bar move once a chunk
    config.eval_batch_size = 512
    config.checkpoint_every = steps // 5  # rounded up to whole chunks; 0 writes none
    config.keep_checkpoints = 2

    config.dataset = "digits"
    config.train_split = "train"
    config.test_split = "test"
    config.data_dir = ""  # empty: $SPARSEJAX_DATA, else ~/.cache/sparsejax/data
    config.window = 128  # tokens of an example of text
    config.image_size = 224  # of streamed images
    config.streaming = False  # read batches through grain instead of keeping the set on the device
    config.augment = "none"

    config.model = ConfigDict({"name": model, **MODELS[model]})
    config.compute_dtype = "float32"  # of the products; parameters, gradients and losses are float32
    config.batch_norm_batches = 20  # that its statistics are taken from anew after masks changed

    config.optimizer = "adamw"
    config.learning_rate = 0.01  # the peak; linear warm-up, then a cosine to 0
    config.decay_steps = ()  # instead of the cosine: steps at which the learning rate falls to a tenth
    config.schedule_steps = steps // 1  # where the learning rate reaches 0; a field of its own, not `steps`
    config.skip_steps = 0  # of that schedule, before the first step: a rewound run begins inside it
    config.warmup_steps = steps // 20
    config.weight_decay = 0.1
    config.decay_all = True  # False: kernels alone, not biases, norms and embeddings
    config.momentum = 0.9  # of sgd; adamw has its own
    config.clip_norm = 0.0  # largest global norm of the gradient; 0 for any
    config.label_smoothing = 0.0
    config.ema_decay = 0.0  # of an average of the parameters that is evaluated in their place; 0 for none

    config.method = "dense"
    config.sparsity = 0.0  # share of zeros among the prunable weights
    config.distribution = "uniform"
    config.init_from = ""  # a workdir whose parameters to begin with, and whose masks for method="fixed"
    config.dense_layers = ()  # path patterns of layers that are not pruned, such as ('head/*',)
    config.update_every = 100
    config.drop_fraction = 0.3  # of the active weights, at step 0; rigl and set
    config.second_moment = "zero"  # of a grown weight, in adamw; "mean", its layer's, tames its first step
    config.begin_step = steps // 10  # gmp, one_shot, ac_dc and learned masks; the others begin at 0
    config.end_step = steps * 3 // 4  # the last mask update; learned masks are at their sparsity

    config.penalty_weight = 0.0  # soft_movement, l0 (of a weight): λ, which sets the sparsity instead
    config.threshold = 0.1  # soft_movement: of σ(score)
    config.gates = "input"  # l0: of what each gate is; "neurons" (mlp, lenet) are tied over two layers
    config.drop_rate = 0.5  # l0, cofi: chance that a gate is below one half at step 0
    config.score_learning_rate = 0.01  # the peak, of movement's scores; Adam, on the weights' schedule
    config.gate_learning_rate = 0.01  # of gates and multipliers; Adam, constant

    config.teacher = ""  # the workdir of a finished run to learn from
    config.distill_weight = 0.5  # of its logits in the loss; the labels have the rest
    config.distill_temperature = 2.0
    config.distill_layers = 0.0  # weight of its hidden states, added to the loss; gpt and encoder

    # A population trains seed, seed + 1, … at each of these, their product, as one program.
    config.population = 0  # seeds; 0 is a single run
    config.sparsities = ()  # empty: config.sparsity
    config.penalty_weights = ()  # empty: config.penalty_weight
    config.learning_rates = ()  # empty: config.learning_rate
    config.population_chunk = 0  # members computed together; 0: all, but one by one for convolutions on a CPU

    config.mesh = ConfigDict(dict.fromkeys(MESH_AXES, 1))  # devices along each axis; -1 takes the rest
    return config


def validate_config(config: ConfigDict) -> None:
    """Checks a whole configuration before anything is loaded or written.

    Args:
      config: a configuration made from `default_config`.

    Raises:
      ConfigError: a field that is unknown, missing, of another type, or out of range, by its name.

    Example:
      >>> validate_config(default_config())
    """
    check_names(config, default_config(), "config")
    for name in ("model", "mesh"):
        require(isinstance(config[name], ConfigDict), name, config[name], "a ConfigDict with its fields")
    validate_model(config.model)
    check_names(config.mesh, dict.fromkeys(MESH_AXES), "config.mesh")
    for name, options in (
        ("method", METHODS),
        ("distribution", DISTRIBUTIONS),
        ("optimizer", OPTIMIZERS),
        ("compute_dtype", DTYPES),
        ("second_moment", SECOND_MOMENTS),
    ):
        choice(config[name], options, name)
    for name in _TEXTS:
        require(isinstance(config[name], str), name, config[name], "a text")
    for name, holds in (
        ("decay_steps", _is_number),
        ("dense_layers", lambda pattern: isinstance(pattern, str)),
    ):
        several = isinstance(config[name], tuple | list) and all(map(holds, config[name]))
        require(
            several,
            name,
            config[name],
            "a tuple of steps" if name == "decay_steps" else "a tuple of path patterns, such as ('head/*',)",
        )
    for name, (holds, text) in _RANGES.items():
        require(_is_number(config[name]) and holds(config[name]), name, config[name], text)
    for name, each in _LISTS.items():
        holds, text = _RANGES[each]
        values = config[name]
        require(
            isinstance(values, tuple | list), name, values, "several numbers, such as '(0.9,0.95)', or ()"
        )
        require(all(_is_number(x) and holds(x) for x in values), name, tuple(values), f"for each {text}")
        apart = len({f"{x:g}" for x in values}) == len(values)  # as the members' directories are named
        require(apart, name, tuple(values), "each number once, apart in 6 digits")
    for axis in MESH_AXES:
        size = config.mesh[axis]
        require(
            _is_number(size) and isinstance(size, int) and (size == -1 or size >= 1),
            f"mesh.{axis}",
            size,
            "-1 or at least 1",
        )
    _check_together(config)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_together(config: ConfigDict) -> None:
    require(
        config.warmup_steps < config.schedule_steps,
        "warmup_steps",
        config.warmup_steps,
        f"less than steps = {config.steps}",
    )
    order = 0 <= config.begin_step <= config.end_step <= config.steps
    require(
        order,
        "begin_step and end_step",
        (config.begin_step, config.end_step),
        f"0 <= begin_step <= end_step <= steps = {config.steps}",
    )
    require(
        config.batch_size % config.accumulate == 0,
        "accumulate",
        config.accumulate,
        f"a divisor of batch_size = {config.batch_size}",
    )
    inside = all(
        is_whole(step, config.warmup_steps + 1) and step < config.steps for step in config.decay_steps
    )
    require(
        inside and list(config.decay_steps) == sorted(set(config.decay_steps)),
        "decay_steps",
        tuple(config.decay_steps),
        f"rising steps between warmup_steps = {config.warmup_steps} and steps = {config.steps}",
    )
    for name in ("decay_all", "streaming"):
        require(isinstance(config[name], bool), name, config[name], "True or False")
    grid = any(len(config[name]) for name in _LISTS)
    require(
        not grid or config.population, "population", config.population, "the seeds of each member, from 1"
    )
    members = config.population * math.prod(max(len(config[name]), 1) for name in _LISTS)
    require(
        not config.streaming or not config.population_chunk or config.population_chunk >= members,
        "population_chunk",
        config.population_chunk,
        f"0, as the {members} members share the batches of the one stream",
    )
    require(
        config.method != "fixed" or config.init_from,
        "init_from",
        config.init_from,
        "the workdir whose masks method='fixed' stays inside of",
    )
    if config.method in ("dense", "fixed") and (config.sparsity > 0 or any(config.sparsities)):
        raise ConfigError(
            f"config.sparsity is {config.sparsity} with config.method={config.method!r}, which would ignore it: choose "
            f"a method ({', '.join(METHODS[1:])}) or leave the sparsity at 0."
        )
    check_learned(config)
    check_teacher(config)


_TEXTS = ("dataset", "train_split", "test_split", "data_dir", "augment", "init_from")

#: The fields of a population's grid, and the field of which each lists values.
_LISTS = {"sparsities": "sparsity", "penalty_weights": "penalty_weight", "learning_rates": "learning_rate"}

_WHOLE = (lambda n: isinstance(n, int) and n >= 1, "a whole number of at least 1")
_COUNT = (lambda n: isinstance(n, int) and n >= 0, "a whole number of at least 0")
_SHARE = (lambda x: 0 <= x <= 1, "a share in [0, 1]")
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda n: isinstance(n, int) and 0 <= n < 2**31, "a whole number in [0, 2**31)"),  # keys wrap
    "steps": _WHOLE,
    "batch_size": _WHOLE,
    "accumulate": _WHOLE,
    "eval_every": _WHOLE,
    "eval_batch_size": _WHOLE,
    "checkpoint_every": _COUNT,
    "keep_checkpoints": _WHOLE,
    "window": _WHOLE,
    "image_size": _WHOLE,
    "batch_norm_batches": _COUNT,
    "population": _COUNT,
    "population_chunk": _COUNT,
    "warmup_steps": _COUNT,
    "schedule_steps": _WHOLE,
    "skip_steps": _COUNT,
    "update_every": _WHOLE,
    "learning_rate": (lambda x: x > 0, "a number above 0"),
    "weight_decay": (lambda x: x >= 0, "a number of at least 0"),
    "clip_norm": (lambda x: x >= 0, "a number of at least 0"),
    "label_smoothing": (lambda x: 0 <= x < 1, "a number in [0, 1)"),
    "ema_decay": (lambda x: 0 <= x < 1, "a number in [0, 1)"),
    "momentum": (lambda x: 0 <= x < 1, "a number in [0, 1)"),
    "sparsity": _SHARE,
    "drop_fraction": _SHARE,
    "penalty_weight": (lambda x: x >= 0, "a number of at least 0"),
    "threshold": _SHARE,
    "drop_rate": _SHARE,
    "score_learning_rate": (lambda x: x > 0, "a number above 0"),
    "gate_learning_rate": (lambda x: x > 0, "a number above 0"),
    "distill_weight": _SHARE,
    "distill_temperature": (lambda x: x > 0, "a number above 0"),
    "distill_layers": (lambda x: x >= 0, "a number of at least 0"),
}
