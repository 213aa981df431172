"""Any configuration from a JSON file: --config=configs/from_json.py:path/to/config.json, as a sweep writes them."""

import json
import pathlib

from ml_collections import ConfigDict

from experiments.config.fields import default_config


def get_config(path: str) -> ConfigDict:
    """Reads every field; those that the file lacks are `default_config`'s."""
    stored = json.loads(pathlib.Path(path).read_text())
    config = default_config(stored["model"]["name"])
    with config.ignore_type():  # JSON has lists where configurations have tuples
        config.update(ConfigDict(stored))
        for part in (config, config.model):
            for name, value in part.items():
                if isinstance(value, list):
                    part[name] = tuple(value)
    return config
