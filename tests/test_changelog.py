"""Every old name that the changelog lists is gone, and every new one is there."""

import importlib
import inspect
import pathlib
import re
from typing import Any

import pytest

from experiments.config.fields import default_config
from experiments.config.model_fields import MODELS

TEXT = (pathlib.Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
RENAMES = [
    tuple(line.split("\t"))
    for block in re.findall(r"^```renames\n(.*?)^```", TEXT, re.M | re.S)
    for line in block.splitlines()
]


def _resolve(path: str) -> Any:
    """The module or attribute at a dotted path; LookupError where there is none."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        name = ".".join(parts[:cut])
        try:
            thing = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not name.startswith(error.name):
                raise  # something else is missing
            continue
        for attribute in parts[cut:]:
            if not hasattr(thing, attribute):
                raise LookupError(path)
            thing = getattr(thing, attribute)
        return thing
    raise LookupError(path)


def _exists(name: str) -> bool:
    if name.startswith("config."):
        fields = name.removeprefix("config.").split(".")
        return any(_has_field(default_config(model), fields) for model in MODELS)
    path, _, argument = name.removesuffix("=)").partition("(")
    try:
        thing = _resolve(path)
    except LookupError:
        return False
    return not argument or argument in inspect.signature(thing).parameters


def _has_field(config: Any, fields: list[str]) -> bool:
    for field in fields:
        if field not in config:
            return False
        config = config[field]
    return True


def test_the_block_has_lines_of_two_names():
    assert len(RENAMES) > 300
    assert all(len(line) == 2 and all(line) for line in RENAMES)
    assert len({old for old, _ in RENAMES}) == len(RENAMES)


@pytest.mark.parametrize("name", ["sparsejax.gmp", "sparsejax.gmp(sparsity=)", "config.model.widths"])
def test_a_name_that_exists_is_found(name):
    assert _exists(name)


@pytest.mark.parametrize("name", ["sparsejax.nowhere.gmp", "sparsejax.gmp(nothing=)", "config.nothing"])
def test_a_name_that_does_not_exist_is_not(name):
    assert not _exists(name)


def test_every_old_name_is_gone():
    assert [old for old, _ in RENAMES if _exists(old)] == []


def test_every_new_name_is_there():
    assert [new for _, new in RENAMES if new != "-" and not _exists(new)] == []
