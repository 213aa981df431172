"""The checks of what belongs to learned masks and gates, and to distillation, in a configuration."""

from ml_collections import ConfigDict

from experiments.config.checks import choice, require
from experiments.errors import ConfigError

LEARNED_METHODS = ("straight_through", "movement", "soft_movement", "l0", "cofi")
GATE_KINDS = ("input", "output", "heads", "weights", "neurons")
#: Models that tell their hidden states, whose gates CoFi knows.
TRANSFORMERS = ("gpt", "encoder")


def check_learned(config: ConfigDict) -> None:
    """Refuses fields of learned masks and gates that do not go together.

    Args:
      config: its fields are in their ranges.

    Raises:
      ConfigError: by the name of the field.

    Example:
      >>> from experiments.config.fields import default_config
      >>> check_learned(default_config())
    """
    choice(config.gates, GATE_KINDS, "gates")
    method = config.method
    penalised = config.penalty_weight > 0 or any(config.penalty_weights)
    target = config.sparsity > 0 or any(config.sparsities)
    if penalised and method not in ("soft_movement", "l0"):
        raise ConfigError(
            f"config.penalty_weight is {config.penalty_weight} with config.method={method!r}, which has no penalty: "
            "choose soft_movement or l0, or leave it at 0."
        )
    if len(config.penalty_weights):
        require(
            all(config.penalty_weights), "penalty_weights", tuple(config.penalty_weights), "numbers above 0"
        )
    if method == "soft_movement" and (target or not penalised):
        raise ConfigError(
            f"config.sparsity is {config.sparsity} and config.penalty_weight {config.penalty_weight} with "
            "config.method='soft_movement', whose penalty sets the sparsity: leave the first at 0, and give a "
            "penalty above 0."
        )
    if method == "l0" and target and penalised:
        raise ConfigError(
            "config.sparsity and config.penalty_weight are both given with config.method='l0': the penalty sets "
            "the sparsity, or a multiplier that meets it replaces the penalty. Leave one at 0."
        )
    if method in LEARNED_METHODS:
        require(not config.ema_decay, "ema_decay", config.ema_decay, f"0 with config.method={method!r}")
    if method == "l0" and config.gates == "neurons":
        _check_neurons(config)
    if method == "cofi":
        _check_cofi(config)


def _check_neurons(config: ConfigDict) -> None:
    choice(config.model.name, ("mlp", "lenet"), "model.name")
    require(
        not config.dense_layers,
        "dense_layers",
        config.dense_layers,
        "() with config.gates='neurons', whose gates are each in two layers",
    )


def _check_cofi(config: ConfigDict) -> None:
    choice(config.model.name, TRANSFORMERS, "model.name")
    require(not config.model.scan, "model.scan", config.model.scan, "False with config.method='cofi'")
    require(
        not config.dense_layers,
        "dense_layers",
        config.dense_layers,
        "() with config.method='cofi', whose gates are the model's own",
    )


def check_teacher(config: ConfigDict) -> None:
    """Refuses fields of distillation that do not go together; the teacher itself is looked at later.

    Args:
      config: its fields are in their ranges.

    Raises:
      ConfigError: by the name of the field.

    Example:
      >>> from experiments.config.fields import default_config
      >>> check_teacher(default_config())
    """
    require(isinstance(config.teacher, str), "teacher", config.teacher, "a workdir, or '' for none")
    if not config.distill_layers:
        return
    require(
        bool(config.teacher),
        "teacher",
        config.teacher,
        "the workdir whose hidden states distill_layers reads",
    )
    choice(config.model.name, TRANSFORMERS, "model.name")
