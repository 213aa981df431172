"""What a run says of itself when it is done."""

import importlib.metadata

import sparsejax
from experiments.record.outcome import versions


def test_a_checkout_that_is_not_installed_knows_its_version(monkeypatch):
    known = importlib.metadata.version

    def version(name):
        if name == "sparsejax":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = versions()
    assert found["sparsejax"] == sparsejax.__version__
    assert found["jax"] == known("jax")
