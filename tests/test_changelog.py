"""The CHANGELOG's table of names: every old one is gone, every new one is there."""

import importlib
import inspect
import pathlib

import pytest

TEXT = (pathlib.Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
ROWS = [line.split("\t") for block in TEXT.split("```")[1::2] for line in block.strip().splitlines()]


def resolve(path):
    """The module, attribute or argument that a full dotted path names; raises where there is none."""
    path, _, argument = path.rstrip(")=").partition("(")
    names = path.split(".")
    for cut in range(len(names), 0, -1):
        try:
            found = importlib.import_module(".".join(names[:cut]))
        except ModuleNotFoundError as error:
            if error.name and not path.startswith(error.name):
                raise
            continue
        for name in names[cut:]:
            found = getattr(found, name)
        if argument and argument not in inspect.signature(found).parameters:
            raise AttributeError(f"{path} takes no {argument}")
        return found
    raise ModuleNotFoundError(path)


def test_the_table_has_rows_of_two():
    assert len(ROWS) > 100
    assert all(len(row) == 2 for row in ROWS)
    olds = [old for old, _ in ROWS]
    assert len(set(olds)) == len(olds)


@pytest.mark.parametrize("new", sorted({row[1] for row in ROWS}))
def test_every_new_name_is_there(new):
    resolve(new)


@pytest.mark.parametrize("old", [row[0] for row in ROWS])
def test_every_old_name_is_gone(old):
    with pytest.raises((ModuleNotFoundError, AttributeError)):
        resolve(old)
