"""The line of the first init: which share, said once, where the user wants to hear it."""

import logging

import jax.numpy as jnp
import optax
import pytest

import sparsejax
from sparsejax.masks import announcement

PARAMS = {"kernel": jnp.ones((8, 8)), "embedding": jnp.ones((4, 8)), "bias": jnp.ones(4)}
LINE = "64.0 % of 100 parameters are prunable; summarize names the others"


@pytest.fixture
def silent_so_far(monkeypatch):
    monkeypatch.setattr(announcement, "_SAID", [])
    return logging.getLogger("sparsejax")


@pytest.mark.parametrize("learned", [False, True])
def test_the_first_init_says_it_once(silent_so_far, monkeypatch, capsys, learned):
    monkeypatch.setattr(silent_so_far, "propagate", False)  # as where logging was not set up
    tx = sparsejax.gmp(optax.sgd(0.1), sparsity=0.5, end_step=9)
    if learned:
        tx = sparsejax.straight_through(optax.sgd(0.1), sparsity=0.5)
    sparsejax.init(tx, PARAMS)
    sparsejax.init(tx, PARAMS)
    said = capsys.readouterr()
    assert said.err.count(LINE) == 1
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_log_gets_it(silent_so_far, caplog):
    with caplog.at_level(logging.INFO, logger="sparsejax"):
        announcement.announce_once(lambda: LINE)
    assert [record.getMessage() for record in caplog.records] == [LINE]


def test_whoever_asks_for_warnings_alone_hears_nothing(silent_so_far, monkeypatch, capsys):
    monkeypatch.setattr(silent_so_far, "propagate", False)
    monkeypatch.setattr(silent_so_far, "level", logging.WARNING)
    announcement.announce_once(lambda: pytest.fail("nobody listens"))
    assert capsys.readouterr().err == ""
