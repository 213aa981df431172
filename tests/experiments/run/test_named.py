"""A configuration names functions of the user's: they are found, checked, and trained with."""

import jax
import numpy as np
import pytest

from experiments.config.fields import default_config
from experiments.config.validation import validate_config
from experiments.errors import ConfigError
from experiments.run.methods import build_method
from experiments.run.named import load_named
from experiments.run.state import make_member
from sparsejax.distributions import Distribution
from tests.experiments import tiny

OWN = "tests.experiments.own"
MODULE = """
from sparsejax import distributions, rules, schedules, scores

def mine():
    return distributions.erdos_renyi()

def rule():
    times = schedules.update_every(2, begin=2, end=6)
    return rules.prune(scores.magnitude(), lambda step: 0.25, times)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in a folder of the user's."""
    (tmp_path / "of_the_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "of_the_user"


def _masks(config):
    (state,), metrics = tiny.train(config, tiny.make_split())
    method = build_method(config, make_member(0, 0.05))
    return jax.tree.map(np.asarray, method.masks(state.params, state.opt_state)), metrics


def test_a_rule_from_a_folder_of_the_user_is_trained_with(module):
    config = tiny.make_config(method="rule", rule=f"{module}:rule")
    assert build_method(config, make_member(0, 0.05)).times.steps().tolist() == [2, 4, 6]
    masks, metrics = _masks(config)
    assert [int(masks[x]["kernel"].sum()) for x in "ab"] == [30, 18]  # three quarters of 40 and of 24
    assert metrics.kept[0].sum() == 64


def test_a_distribution_of_the_user_shares_the_sparsity_out(module):
    config = tiny.make_config(method="static", sparsity=0.5, distribution=f"{module}:mine")
    named = tiny.make_config(method="static", sparsity=0.5, distribution="erdos_renyi")
    ours, theirs = (build_method(c, make_member(0, 0.05)) for c in (config, named))
    params = tiny.draw(jax.random.key(0))
    tiny.assert_same(ours.masks(*ours.init(params)), theirs.masks(*theirs.init(params)))
    assert isinstance(load_named("distribution", f"{module}:mine"), Distribution)


def test_a_score_and_a_pattern_of_the_user_choose_the_weights():
    params = tiny.draw(jax.random.key(0))
    for score in ("", "sparsejax.scores:magnitude", f"{OWN}:smallest"):
        config = tiny.make_config(method="one_shot", begin_step=0, score=score)
        method = build_method(config, make_member(0, 0.05))
        params, state = method.init(tiny.draw(jax.random.key(0)))
        grads = jax.tree.map(np.ones_like, params)
        _, state = method.tx.update(grads, state, params)
        kept, size = method.masks(params, state)["a"]["kernel"], np.abs(params["a"]["kernel"])
        larger = size[np.asarray(kept)].mean() > size[~np.asarray(kept)].mean()
        assert larger == (score != f"{OWN}:smallest")
    config = default_config()
    config.update({"method": "static", "sparsity": 0.5, "pattern": f"{OWN}:two_of_four"})
    validate_config(config)
    method = build_method(config, make_member(0, 0.05))
    kernel = {"dense": {"kernel": np.ones((8, 3), np.float32)}}
    mask = np.asarray(method.masks(*method.init(kernel))["dense"]["kernel"])
    assert (mask.reshape(2, 4, 3).sum(1) == 2).all()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("lamp", "module:function"),
        ("nowhere.scores:lamp", "there is no module 'nowhere'"),
        ("sparsejax.scores:lump", "has no function 'lump'; it has .*lamp"),
        (f"{OWN}:needs_something", "was called without arguments and failed"),
        (f"{OWN}:text", "it returns str, not a sparsejax Score"),
        (f"{OWN}:two_of_four", "it returns NM, not a sparsejax Score"),
    ],
)
def test_what_cannot_be_had_is_said_before_anything_runs(place, words):
    config = default_config()
    config.method, config.sparsity, config.score = "gmp", 0.5, place
    with pytest.raises(ConfigError, match=rf"config.score is '{place}': .*{words}"):
        validate_config(config)


def test_a_class_is_no_pattern():
    with pytest.raises(ConfigError, match="it returns type, not a sparsejax Pattern"):
        load_named("pattern", f"{OWN}:uncalled")
