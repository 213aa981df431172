"""A configuration read back from the JSON that a run or a sweep left of it."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.config.fields import default_config


def config_of(stored: Mapping[str, Any]) -> ConfigDict:
    """Makes a configuration of its JSON; fields that it lacks are `default_config`'s.

    Args:
      stored: what ``config.json`` holds; lists stand where configurations have tuples.

    Returns:
      The configuration, unlocked.

    Raises:
      ConfigError: an unknown model.

    Example:
      >>> config = config_of({"steps": 100, "model": {"name": "mlp", "widths": [24]}})
      >>> config.model.widths, config.warmup_steps
      ((24,), 5)
    """
    config = default_config(stored["model"]["name"])
    with config.ignore_type():
        config.update(ConfigDict(dict(stored)))
        for part in (config, config.model):
            for name, value in part.items():
                if isinstance(value, list):
                    part[name] = tuple(value)
    return config
