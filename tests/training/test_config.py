"""Every field is checked by name before anything runs; a mistyped name finds its neighbour."""

import pytest

from sparsejax.errors import ConfigError
from sparsejax.training.config import METHODS, default_config, validate


def _with(**changes):
    config = default_config()
    for name, value in changes.items():
        config[name] = value
    return config


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_valid_for_every_method(method):
    validate(_with(method=method, sparsity=0.0 if method == "dense" else 0.9))


def test_update_times_follow_the_steps():
    config = default_config().lock()
    config.steps = 40
    assert (config.warmup_steps, config.begin_step, config.end_step) == (2, 4, 30)
    config.end_step = 20
    config.steps = 80
    assert (config.warmup_steps, config.begin_step, config.end_step) == (4, 8, 20)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sparsity": 1.5}, ["config.sparsity is 1.5", "[0, 1]"]),
        ({"sparsity": float("nan")}, ["config.sparsity is nan"]),
        ({"drop_fraction": -0.1}, ["config.drop_fraction"]),
        ({"method": "rigle"}, ["config.method is 'rigle'", "did you mean 'rigl'?", "static"]),
        ({"distribution": "erk"}, ["config.distribution is 'erk'", "erdos_renyi_kernel"]),
        ({"optimizer": "adam"}, ["did you mean 'adamw'?"]),
        ({"steps": 0}, ["config.steps is 0"]),
        ({"batch_size": 0}, ["config.batch_size is 0"]),
        ({"learning_rate": 0.0}, ["config.learning_rate is 0.0"]),
        ({"seed": -1}, ["config.seed is -1"]),
        ({"warmup_steps": 5000}, ["config.warmup_steps is 5000", "less than steps = 5000"]),
        ({"begin_step": 3800}, ["begin_step and end_step is (3800, 3750)"]),
        ({"end_step": 5001}, ["<= steps = 5000"]),
        ({"sparsity": 0.5}, ["config.method='dense'", "rigl"]),
        ({"model": {"name": "mpl", "widths": (3,)}}, ["config.model.name is 'mpl'", "did you mean 'mlp'?"]),
        (
            {"model": {"name": "mlp", "width": (3,)}},
            ["config.model.width is no field", "did you mean 'widths'?"],
        ),
        ({"model": {"name": "mlp"}}, ["config.model lacks widths"]),
        ({"model": {"name": "mlp", "widths": (3, 0)}}, ["config.model.widths is (3, 0)"]),
        ({"sparsty": 0.9}, ["config.sparsty is no field", "did you mean 'sparsity'?"]),
    ],
)
def test_refusals_name_the_field(changes, words):
    with pytest.raises(ConfigError) as caught:
        validate(_with(**changes))
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_model():
    with pytest.raises(ConfigError, match="did you mean 'lenet'"):
        default_config("lennet")


def test_a_missing_field():
    config = default_config()
    del config.batch_size
    with pytest.raises(ConfigError, match="config lacks batch_size"):
        validate(config)
