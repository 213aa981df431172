"""The check of a whole configuration: every field by its table, then what must go together."""

import math

from ml_collections import ConfigDict

from experiments.config.checks import check_names, check_value, choice, is_whole, require
from experiments.config.fields import FIELDS, MESH_AXES
from experiments.config.model_fields import validate_model
from experiments.errors import ConfigError
from experiments.models.build import MODELS
from experiments.run.methods import DISTRIBUTIONS, METHODS
from experiments.run.named import RETURNS, load_named
from experiments.run.optimizers import falls

#: The fields of a population's grid, and the field of which each lists values.
GRID = {"sparsities": "sparsity", "penalty_weights": "penalty_weight", "learning_rates": "learning_rate"}
#: Fields that say what network is wanted: `ignored_fields` names those that the method does not read.
_TELLING = ("sparsity", "penalty_weight", "score", "pattern", "rule")


def validate_config(config: ConfigDict) -> None:
    """Checks a whole configuration before anything is loaded or written.

    A field that the method ignores may hold anything in its range, so that a study can vary the method over one
    base; a grid over such a field is refused, as it would train the same network several times.

    Args:
      config: a configuration made from `default_config`.

    Raises:
      ConfigError: a field that is unknown, missing, of another type, or out of range, by its name; fields that
        do not go together; a function that the configuration names and that cannot be had.

    Example:
      >>> from experiments.config.fields import default_config
      >>> validate_config(default_config())
    """
    if others := sorted({"base", "methods", "network"} & set(config)):
        raise ConfigError(
            f"This configuration has a field {others[0]!r}, so it is one of another command than experiments.train: "
            "the first lines of its file name it."
        )
    check_names(config, FIELDS, "config")
    for name, field in FIELDS.items():
        check_value(name, config[name], field.check)
    validate_model(config.model)
    check_names(config.mesh, MESH_AXES, "config.mesh")
    for axis in MESH_AXES:
        size = config.mesh[axis]
        require(size == -1 or is_whole(size, 1), f"mesh.{axis}", size, "-1 or at least 1")
    _check_times(config)
    _check_population(config)
    _check_method(config)
    if config.model.get("sparse_compute") == "blocks":
        _check_blocks(config)
    if config.distill_layers:
        where = "the workdir whose hidden states distill_layers reads"
        require(bool(config.teacher), "teacher", config.teacher, where)
        _check_hidden(config)


def ignored_fields(config: ConfigDict) -> list[str]:
    """Names the fields that ask for a sparse network and that the method does not read.

    Args:
      config: a valid configuration.

    Returns:
      Their names.

    Example:
      >>> from experiments.config.fields import default_config
      >>> config = default_config()
      >>> config.sparsity = 0.9
      >>> ignored_fields(config)
      ['sparsity']
    """
    reads = METHODS[config.method].reads
    return [name for name in _TELLING if config[name] != FIELDS[name].default and name not in reads]


def _check_times(config: ConfigDict) -> None:
    steps, warmup, reads = config.steps, config.warmup_steps, METHODS[config.method].reads
    require(warmup < config.schedule_steps, "warmup_steps", warmup, f"less than steps = {steps}")
    ends = [*config.extended, steps]
    rising = f"() or rising steps below steps = {steps}: the earlier ends of a run that goes on with --extend"
    require(ends == sorted(set(ends)), "extended", tuple(config.extended), rising)
    times = [config[name] for name in ("begin_step", "end_step") if name in reads]
    require(
        times == sorted(times) and all(time <= steps for time in times),
        "begin_step and end_step",
        (config.begin_step, config.end_step),
        f"0 <= begin_step <= end_step <= steps = {steps}",
    )
    parts, at = config.accumulate, falls(config)
    whole_parts = config.batch_size % parts == 0
    require(whole_parts, "accumulate", parts, f"a divisor of batch_size = {config.batch_size}")
    require(
        at == sorted(set(at)) and all(warmup < step < steps for step in at),
        "decay_steps",
        tuple(config.decay_steps),
        f"rising steps, or shares of them, between warmup_steps = {warmup} and steps = {steps}",
    )


def _check_population(config: ConfigDict) -> None:
    listed = {name: each for name, each in GRID.items() if len(config[name])}
    require(
        not listed or config.population, "population", config.population, "the seeds of each member, from 1"
    )
    members = config.population * math.prod(max(len(config[name]), 1) for name in GRID)
    require(
        not config.streaming or not config.population_chunk or config.population_chunk >= members,
        "population_chunk",
        config.population_chunk,
        f"0, as the {members} members share the batches of the one stream",
    )
    reads = (*METHODS[config.method].reads, "learning_rate")
    for name, each in listed.items():
        if each not in reads and any(config[name]):
            able = ", ".join(method for method, entry in METHODS.items() if each in entry.reads)
            raise ConfigError(
                f"config.{name} is {tuple(config[name])} with config.method={config.method!r}, which has no {each}: "
                f"its members would be the same. Choose another method ({able}), or leave it at ()."
            )
    if config.penalty_weights:
        weights = tuple(config.penalty_weights)
        require(all(weights), "penalty_weights", weights, "numbers above 0")


def _check_method(config: ConfigDict) -> None:
    method, entry = config.method, METHODS[config.method]
    penalised = config.penalty_weight > 0 or len(config.penalty_weights) > 0
    targeted = config.sparsity > 0 or any(config.sparsities)
    if method == "fixed":
        where = "the workdir whose masks method='fixed' stays inside of"
        require(bool(config.init_from), "init_from", config.init_from, where)
    if method == "rule":
        require(bool(config.rule), "rule", config.rule, "'module:function', the rule of method='rule'")
    if method == "soft_movement":
        where = "a penalty above 0: with config.method='soft_movement' it sets the sparsity"
        require(penalised, "penalty_weight", config.penalty_weight, where)
    if method == "l0" and targeted and penalised:
        raise ConfigError(
            "config.sparsity and config.penalty_weight are both given with config.method='l0': the penalty sets "
            "the sparsity, or a multiplier that meets it replaces the penalty. Leave one at 0."
        )
    if entry.learned:
        require(not config.ema_decay, "ema_decay", config.ema_decay, f"0 with config.method={method!r}")
    if method == "l0" and config.gates == "neurons":
        choice(config.model.name, ("mlp", "lenet"), "model.name")
        where = "() with config.gates='neurons', whose gates are each in two layers"
        require(not config.dense_layers, "dense_layers", config.dense_layers, where)
    if method == "cofi":
        _check_hidden(config)
        require(not config.model.scan, "model.scan", config.model.scan, "False with config.method='cofi'")
        where = "() with config.method='cofi', whose gates are the model's own"
        require(not config.dense_layers, "dense_layers", config.dense_layers, where)
    for name in RETURNS:  # early: a mistake in a user's module is better seen before any data is read
        if name in entry.reads and config[name] and config[name] not in DISTRIBUTIONS:
            load_named(name, config[name])


def _check_blocks(config: ConfigDict) -> None:
    """Refuses what the compressed form does not have."""
    choice(config.method, [name for name, entry in METHODS.items() if entry.blocks], "method")
    instead = "with config.model.sparse_compute='blocks'"
    wanted = {
        "pattern": ("", "whose weights are blocks already"),
        "ema_decay": (0, "whose average of moving blocks would mean nothing"),
        "teacher": ("", "which the teacher's dense form does not fit"),
        "sparsities": ((), "as the members share one number of blocks"),
    }
    for name, (value, why) in wanted.items():
        require(not config[name], name, config[name], f"{value!r} {instead}, {why}")
    require(
        not config.model.scan, "model.scan", config.model.scan, f"False {instead}: stacks are not compressed"
    )
    for axis in ("fsdp", "tensor"):
        require(
            config.mesh[axis] == 1, f"mesh.{axis}", config.mesh[axis], f"1 {instead}: blocks are replicated"
        )
    sizes = {name: config.model[name] for name in ("width", "mlp_dim")}
    for name, size in sizes.items():
        where = f"a multiple of config.block = {config.block} {instead}"
        require(size % config.block == 0, f"model.{name}", size, where)


def _check_hidden(config: ConfigDict) -> None:
    """Refuses a model that does not tell its hidden states."""
    choice(config.model.name, [name for name, entry in MODELS.items() if entry.hidden], "model.name")
