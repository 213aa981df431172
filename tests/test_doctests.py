"""The examples in the docstrings run, print what they say, and warn of nothing."""

import doctest
import importlib
import pkgutil

import pytest

import experiments
import sparsejax


def _below(package):
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return sorted(module.name for module in found if not module.name.endswith("__main__"))


MODULES = _below(sparsejax)
RUNNER = [
    pytest.param(name, marks=pytest.mark.slow) for name in _below(experiments)
]  # a minute of small models


@pytest.mark.parametrize("name", [*MODULES, *RUNNER])
def test_examples_of(name):
    module = importlib.import_module(name)
    output = []
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(example, out=output.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(output)


def test_there_are_modules_to_look_at():
    assert {
        "sparsejax.recipes.alternating",
        "sparsejax.scores.noise",
        "sparsejax.transforms.sparsify",
    } <= set(MODULES)
