"""Any configuration from a JSON file: --config=configs/from_json.py:path/to/config.json, as runs and sweeps leave."""

import json
import pathlib

from ml_collections import ConfigDict

from experiments.config.stored import config_of


def get_config(path: str) -> ConfigDict:
    """Reads every field; those that the file lacks are `default_config`'s."""
    return config_of(json.loads(pathlib.Path(path).read_text()))
