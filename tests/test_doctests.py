"""The examples in the docstrings run, print what they say, and warn of nothing."""

import doctest
import importlib
import pkgutil

import pytest

import sparsejax

MODULES = sorted(module.name for module in pkgutil.walk_packages(sparsejax.__path__, "sparsejax."))


@pytest.mark.parametrize("name", MODULES)
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
