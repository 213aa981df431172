"""Reads a configuration file as the command line does."""

import importlib.util
import pathlib

from ml_collections import ConfigDict


def read_config(path: pathlib.Path, *words: str) -> ConfigDict:
    """What the file's `get_config` returns, given what follows the colon, locked against fields that do not exist."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*words).lock()
