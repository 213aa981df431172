"""The options of a structured compression, with their defaults, and the check that they make sense together."""

import copy
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from experiments.compress.unit_choices import UNIT_IMPORTANCES
from experiments.config.checks import check_kind, check_names, choice, is_whole, require
from experiments.config.validation import validate_config
from experiments.errors import ConfigError
from sparsejax.structured import KINDS

BUDGETS = ("channel_ratio", "global_channel_ratio", "parameter_ratio", "flops_ratio", "latency_ratio")
_FINE_TUNE = ("steps", "learning_rate", "warmup_steps")


def default_compression(base: ConfigDict) -> ConfigDict:
    """Makes the options of `experiments.compress` with every field; a config file changes a few.

    Args:
      base: how the dense network is trained, from `default_config`; fine-tuning is the same but for
        `fine_tune`.

    Returns:
      An unlocked `ConfigDict`.

    Example:
      >>> from experiments.config.fields import default_config
      >>> default_compression(default_config("lenet")).budget
      'flops_ratio'
    """
    options = ConfigDict()
    options.base = base
    options.init_from = ""  # the workdir of a finished dense run, instead of training one
    options.seeds = 0  # base.seed, base.seed + 1, … as a population; 0 is a single run
    options.importances = ("l2",)  # of UNIT_IMPORTANCES; several are compared from the same dense networks
    options.orderings = ()  # pairs of importances: the one expected to be better, the other

    options.budget = "flops_ratio"  # what `ratio` is a share of; see BUDGETS
    options.ratio = 0.5  # the share that goes, in [0, 1)
    options.across = "uniform"  # or "global": the least important units of all groups
    options.kinds = ("channel", "neuron", "head", "residual")
    options.only = ()  # name patterns of groups; empty: all
    options.most = 1.0  # largest share of one group that may go
    options.round_to = 1  # widths are multiples of it
    options.rounds = 1  # of pruning and fine-tuning, each taking the same fraction of what is left
    options.batches = 8  # training batches for the importances that look at data, and for the repair
    options.repair = (
        ""  # before fine-tuning: "weights and bias", "weights" or "bias", as `post_training.repair`
    )

    options.bits = (
        0  # of the shrunk network's weights in ``small/model.safetensors``; 0: nothing is quantized or saved
    )
    options.group_size = 0  # inputs that share a scale, such as 64; 0: all of an output's
    options.quantizer = "gptq"  # or "nearest"
    options.compression = ""  # of the file: "zlib" or "zstd"

    steps = base.get_ref("steps")
    options.fine_tune = ConfigDict()  # of each round
    options.fine_tune.steps = steps // 2
    options.fine_tune.learning_rate = base.learning_rate / 3
    options.fine_tune.warmup_steps = 0

    options.sensitivity = (0.25, 0.5, 0.75, 0.9)  # shares of one group alone; empty: no curves
    options.sensitivity_examples = 512  # of the test split
    options.latency_batch = 32
    options.latency_rounds = 5  # interleaved measurements; 0: none
    return options


def validate_compression(options: ConfigDict) -> None:
    """Checks all options before anything is loaded or trained.

    Args:
      options: made from `default_compression`.

    Raises:
      ConfigError: a field that is unknown, missing, out of range, or does not fit the others, by its name.

    Example:
      >>> from experiments.config.fields import default_config
      >>> validate_compression(default_compression(default_config()))
    """
    check_kind(options, "base", "compress")
    validate_config(options.base)
    check_names(options, default_compression(copy.deepcopy(options.base)), "config")
    check_names(options.fine_tune, _FINE_TUNE, "config.fine_tune")
    for name, (holds, text) in _RANGES.items():
        require(_holds(holds, options[name]), name, options[name], text)
    choice(options.budget, BUDGETS, "budget")
    choice(options.across, ("uniform", "global"), "across")
    choice(options.repair, ("", "weights and bias", "weights", "bias"), "repair")
    choice(options.quantizer, ("gptq", "nearest"), "quantizer")
    choice(options.compression, ("", "zlib", "zstd"), "compression")
    for field, known in (("importances", UNIT_IMPORTANCES), ("kinds", KINDS)):
        several = (
            isinstance(options[field], tuple | list) and len(set(options[field])) == len(options[field]) > 0
        )
        require(several, field, options[field], f"one or several of {', '.join(known)}, each once")
        for value in options[field]:
            choice(value, known, field)
    for pair in options.orderings:
        if len(pair) != 2 or set(pair) - set(options.importances):
            raise ConfigError(
                f"config.orderings has {pair!r}: give pairs of {', '.join(options.importances)}."
            )
    _check_base(options.base)


def _check_base(base: ConfigDict) -> None:
    require(base.method == "dense", "base.method", base.method, "'dense': the masks come from here")
    grid = base.population or len(base.sparsities) or len(base.learning_rates)
    require(not grid, "base.population", base.population, "0 and no grid: seeds= says how many there are")
    require(not base.streaming, "base.streaming", base.streaming, "False: data that fits the device")
    alone = all(size == 1 for size in base.mesh.values())
    require(alone, "base.mesh", dict(base.mesh), "1 along each axis: a compression runs on one device")


def fine_tuning(options: ConfigDict, start: str) -> ConfigDict:
    """The training configuration of one fine-tuning.

    Args:
      options: valid.
      start: the directory of the pruned parameters and their masks.

    Returns:
      The base with method ``"fixed"``, and the steps and learning rate of ``options.fine_tune``.

    Example:
      >>> from experiments.config.fields import default_config
      >>> fine_tuning(default_compression(default_config()), "pruned").steps
      2500
    """
    config = copy.deepcopy(options.base).unlock()
    config.population = options.seeds
    config.steps = options.fine_tune.steps
    config.schedule_steps, config.warmup_steps = options.fine_tune.steps, options.fine_tune.warmup_steps
    config.learning_rate, config.decay_steps = options.fine_tune.learning_rate, ()
    config.begin_step = config.end_step = 0
    config.method, config.init_from = "fixed", start
    validate_config(config)
    return config


def _holds(test: Callable[[Any], bool], value: Any) -> bool:
    try:
        return bool(test(value))
    except TypeError:
        return False


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seeds": (lambda n: is_whole(n, 0), "a whole number of at least 0"),
    "ratio": (lambda x: 0 <= x < 1, "the share that goes, in [0, 1)"),
    "most": (lambda x: 0 < x <= 1, "a share in (0, 1]"),
    "round_to": (lambda n: is_whole(n, 1), "a whole number of at least 1"),
    "rounds": (lambda n: is_whole(n, 1), "a whole number of at least 1"),
    "group_size": (lambda n: is_whole(n, 0), "a whole number of at least 0"),
    "bits": (lambda n: n == 0 or (is_whole(n, 2) and n <= 8), "0, or a whole number from 2 to 8"),
    "batches": (lambda n: is_whole(n, 1), "a whole number of at least 1"),
    "sensitivity": (lambda xs: all(0 < x < 1 for x in xs), "shares in (0, 1), or ()"),
    "sensitivity_examples": (lambda n: is_whole(n, 1), "a whole number of at least 1"),
    "latency_batch": (lambda n: is_whole(n, 1), "a whole number of at least 1"),
    "latency_rounds": (lambda n: is_whole(n, 0), "a whole number of at least 0"),
}
