"""The fields of a study of orders."""

from ml_collections import ConfigDict

from experiments.config.checks import check_names, is_number, is_whole, require
from experiments.config.validation import validate_config
from experiments.one_shot.options import TRAINED, default_study
from experiments.orders.ways import ORDERS

# Of a one-shot study, not of this one: methods with their levels, and training after them.
_OTHERS = ("methods", "levels", "reconstruct_steps", "damping", "ignore")


def default_orders(network: str) -> ConfigDict:
    """All fields with their defaults.

    Args:
      network: as `default_study` takes it.

    Returns:
      The configuration.

    Example:
      >>> default_orders("convnet").bits
      (8, 4)
    """
    config = default_study(network)
    for name in _OTHERS:
        del config[name]
    config.orders = tuple(ORDERS)
    config.sparsities = (0.5, 0.7, 0.8)
    config.bits = (8, 4)  # a scale for each output
    # Trained networks with a draw of calibration data each; of a pretrained network, draws alone.
    config.draws = 3
    # Paths of parameters that are not pruned and get 8 bits everywhere, to nearest: embeddings, layers of few rows.
    config.in_8_bits = ()
    # Training after pruning, towards the dense network's own outputs on the calibration data.
    config.tune_steps = 300
    config.tune_batch = 32
    return config


def check(config: ConfigDict) -> None:
    """Refuses a study that does not fit together before anything is loaded.

    Args:
      config: of a study.

    Raises:
      ConfigError: unknown orders, numbers out of range.

    Example:
      >>> check(default_orders("gpt"))
    """
    check_names(config, default_orders(config.get("network", "gpt")), "config")
    if config.network in TRAINED:
        validate_config(config.base)
    check_names((*config.orders, *ORDERS), ORDERS, "config.orders")
    for name in ("orders", "sparsities", "bits"):
        require(len(config[name]) > 0, name, config[name], "at least one")
    for share in config.sparsities:
        require(is_number(share) and 0 < share < 1, "sparsities", share, "fractions of zeros, such as 0.5")
    for bits in config.bits:
        require(is_whole(bits, 2) and bits <= 8, "bits", bits, "whole numbers from 2 to 8")
    for name in ("draws", "batch_size", "test_items", "per_kind", "tune_batch", "tune_steps"):
        require(is_whole(config[name], 1), name, config[name], "a whole number of at least 1")
    fits = is_whole(config.calibration_items, 2 * config.batch_size)
    require(fits, "calibration_items", config.calibration_items, "two batches at least: one is held out")
    require(
        config.tune_batch <= config.calibration_items // config.batch_size * config.batch_size,
        "tune_batch", config.tune_batch, "at most calibration_items",
    )  # fmt: skip
