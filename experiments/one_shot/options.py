"""The fields of a one-shot study."""

from ml_collections import ConfigDict

from experiments.config.checks import check_kind
from experiments.config.fields import default_config
from experiments.config.validation import validate_config
from experiments.errors import ConfigError
from experiments.one_shot.methods import METHODS
from sparsejax.patterns import NM

#: Networks that are trained here.
TRAINED = ("gpt", "convnet")


def default_study(network: str) -> ConfigDict:
    """All fields with their defaults.

    Args:
      network: "magika", or one that is trained: "gpt", "convnet".

    Returns:
      The configuration.
    """
    config = ConfigDict()
    config.network = network
    config.methods = tuple(METHODS)
    config.levels = ("50 %", "60 %", "70 %", "80 %", "90 %", "2:4", "4:8")
    config.draws = 5
    config.calibration_items = 512
    config.batch_size = 32
    config.test_items = 3000
    config.ignore = ()
    config.damping = 0.01
    # Label-free steps after pruning, on the calibration data; 0 for none.
    config.reconstruct_steps = 0
    config.reconstruct_batch = 8  # items a step
    config.learning_rate = 5e-4
    # Of Magika: where files are looked for (the system's and Python's folders when empty), the most of a kind.
    config.folders = ()
    config.per_kind = 250
    # Of those trained here: how; and which part of Python's text a GPT is calibrated on.
    config.base = default_config("lenet" if network == "convnet" else "gpt")
    config.part = "code"
    return config


def level(text: str) -> dict[str, object]:
    """Reads a level: a percentage of zeros or n:m kept.

    Args:
      text: such as ``"80 %"`` or ``"2:4"``.

    Returns:
      Arguments of `prune_model`.

    Raises:
      ConfigError: neither.

    Example:
      >>> level("80 %")
      {'sparsity': 0.8}
    """
    try:
        if text.endswith("%"):
            return {"sparsity": float(text[:-1]) / 100}
        n, m = text.split(":")
        return {"pattern": NM(int(n), int(m))}
    except ValueError as error:
        raise ConfigError(f"level {text!r}: write '80 %' or '2:4'.") from error


def check(config: ConfigDict) -> None:
    """Refuses a study that does not fit together before anything is loaded.

    Args:
      config: of a study.

    Raises:
      ConfigError: unknown methods or levels, numbers out of range.
    """
    check_kind(config, "network", "one_shot")
    if config.network in TRAINED:
        validate_config(config.base)
    unknown = [name for name in config.methods if name not in METHODS]
    if unknown:
        raise ConfigError(f"methods: {', '.join(unknown)} unknown; there are: {', '.join(METHODS)}.")
    for text in config.levels:
        level(text)
    least = {
        "draws": 1,
        "batch_size": 1,
        "test_items": 1,
        "reconstruct_steps": 0,
        "reconstruct_batch": 1,
        "per_kind": 1,
    }
    for name, value in least.items():
        if config[name] < value:
            raise ConfigError(f"{name} is {config[name]}; the least is {value}.")
    if config.batch_size % min(config.reconstruct_batch, config.batch_size):
        raise ConfigError(
            f"reconstruct_batch is {config.reconstruct_batch}, which does not divide batch_size, {config.batch_size}."
        )
    if config.calibration_items < 2 * config.batch_size:
        raise ConfigError("calibration_items must be two batches at least: one is held out.")
