"""The fields of a lottery study with their defaults, and what it must be before anything of it runs."""

from ml_collections import ConfigDict

import sparsejax
from experiments.config.checks import check_kind
from experiments.config.fields import default_config
from experiments.config.validation import validate_config
from experiments.errors import ConfigError

#: What a ticket is compared with: its mask on other initial weights, its weights on other masks of the same
#: layer sparsities, and both.
CONTROLS = ("reinit", "shuffled", "random")
_METRICS = ("test_accuracy", "test_loss", "train_accuracy", "train_loss", "bits_per_byte")


def default_lottery(base: ConfigDict) -> ConfigDict:
    """Makes a lottery study with every field; a config file changes the few that it is about.

    Args:
      base: one dense training run, from `default_config`; of 5 seeds and without warm-up, weight decay and
        checkpoints where the file says nothing else.

    Returns:
      An unlocked `ConfigDict`.

    Example:
      >>> from experiments.config.fields import default_config
      >>> study = default_lottery(default_config("mlp"))
      >>> study.levels, study.fraction, study.controls
      (5, 0.2, ('reinit', 'random'))
    """
    base.population, base.warmup_steps, base.weight_decay, base.checkpoint_every = 5, 0, 0.0, 0
    study = ConfigDict()
    study.title = "Lottery tickets"
    study.base = base
    study.levels = 5  # rounds of pruning
    study.fraction = 0.2  # of the weights that are left, pruned in each
    study.rewind_step = 0  # 0: to the initial weights
    study.keep_weights = False  # fine-tune instead of rewinding
    study.distribution = "uniform"  # or "global"
    study.controls = ("reinit", "random")
    study.connectivity = False  # whether each ticket is trained once more, with the data in another order
    study.metric = "test_accuracy"
    study.lower = False  # whether lower is better
    return study


def check(study: ConfigDict) -> None:
    """Refuses a study that does not fit together before anything runs.

    Args:
      study: see `experiments.lottery.run`.

    Raises:
      ConfigError: a field that is unknown, missing, out of range, or does not fit the others.
      SparsityError: a fraction outside (0, 1).
    """
    check_kind(study, "controls", "lottery")
    fields = list(default_lottery(default_config()))
    if differ := sorted(set(fields) ^ set(study)):
        raise ConfigError(
            f"A lottery study has the fields {', '.join(fields)}; this one differs in {', '.join(differ)}. "
            "Start from default_lottery, as configs/lottery/digits_mlp.py does."
        )
    validate_config(study.base)
    for name, least in (("levels", 1), ("rewind_step", 0)):
        value = study[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name} is {value!r}: give a whole number of at least {least}.")
    sparsejax.recipes.level_sparsity(study.fraction, study.levels)
    metrics = _METRICS if study.base.model.name == "gpt" else _METRICS[:-1]
    if study.metric not in metrics:
        raise ConfigError(f"metric is {study.metric!r}: choose one of {', '.join(metrics)}.")
    if study.lower == study.metric.endswith("accuracy"):
        raise ConfigError(
            f"lower is {study.lower} with metric {study.metric}: True for losses and bits, False for accuracies."
        )
    if (
        study.base.population < 1
        or study.base.method != "dense"
        or study.base.sparsities
        or study.base.learning_rates
    ):
        raise ConfigError(
            "The base of a lottery study is a dense population: set base.population to the seeds."
        )
    if unknown := set(study.controls) - set(CONTROLS):
        raise ConfigError(f"controls are {sorted(unknown)}: choose among {', '.join(CONTROLS)}.")
    if not 0 <= study.rewind_step < study.base.steps or (study.keep_weights and study.rewind_step):
        raise ConfigError(
            f"rewind_step is {study.rewind_step}: from 0 to below base.steps; 0 with keep_weights."
        )
    if study.distribution not in ("uniform", "global"):
        raise ConfigError(f"distribution is {study.distribution!r}: choose uniform or global.")
