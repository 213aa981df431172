"""Errors: one family, each also the builtin that a caller would expect to catch."""

import inspect
import pathlib

import pytest

import experiments.errors
from sparsejax import errors

TYPES = [
    t
    for module in (errors, experiments.errors)
    for _, t in inspect.getmembers(module, inspect.isclass)
    if t.__module__ == module.__name__
]
BUILTIN = {
    "PathError": KeyError,
    "WorkdirError": OSError,
    "RandomKeyError": TypeError,
    "TrainingError": FloatingPointError,
    "CheckpointError": OSError,
    "Interrupted": RuntimeError,
    "HostError": RuntimeError,
    "InstallError": ImportError,
}


@pytest.mark.parametrize("error", TYPES, ids=lambda t: t.__name__)
def test_every_error_is_documented_and_of_the_family(error):
    assert issubclass(error, errors.SparsejaxError)
    assert inspect.getdoc(error)


@pytest.mark.parametrize(
    "error", [t for t in TYPES if t is not errors.SparsejaxError], ids=lambda t: t.__name__
)
def test_every_error_is_a_builtin_too_and_reads_as_its_sentence(error):
    assert issubclass(error, BUILTIN.get(error.__name__, ValueError))
    assert str(error("'a/b' is wrong: do this.")) == "'a/b' is wrong: do this."


@pytest.mark.parametrize("error", TYPES, ids=lambda t: t.__name__)
def test_the_page_that_an_error_names_exists(error):
    page = experiments.errors.error_text(error("It is wrong.")).rpartition("More: ")[2]
    assert (pathlib.Path(__file__).parents[1] / page).is_file()


def test_an_error_about_devices_names_the_page_on_many_devices():
    text = experiments.errors.error_text(experiments.errors.DeviceError("Three devices, not four."))
    assert text.endswith("More: docs/pods.md")
