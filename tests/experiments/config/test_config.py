"""Every field is checked by name before anything runs; a mistyped name finds its neighbour."""

import pytest

from experiments.config.fields import default_config
from experiments.config.validation import validate_config
from experiments.errors import ConfigError
from experiments.run.methods import METHODS


def _with(**changes):
    config = default_config()
    for name, value in changes.items():
        config[name] = value
    return config


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_valid_for_every_method(method):
    changes = {"sparsity": 0.9, "model": default_config("encoder" if method == "cofi" else "mlp").model}
    changes |= {
        "fixed": {"init_from": "runs/a"},
        "rule": {"rule": "tests.experiments.own:rule"},
        "soft_movement": {"penalty_weight": 100.0},
    }.get(method, {})
    validate_config(_with(method=method, **changes))


def test_update_times_follow_the_steps():
    config = default_config().lock()
    config.steps = 40
    assert (config.warmup_steps, config.begin_step, config.end_step) == (2, 4, 30)
    config.end_step = 20
    config.steps = 80
    assert (config.warmup_steps, config.begin_step, config.end_step) == (4, 8, 20)


@pytest.mark.parametrize(
    "name", ["schedule_steps", "warmup_steps", "begin_step", "end_step", "checkpoint_every"]
)
def test_what_follows_the_steps_does_not_lead_them(name):
    config = default_config()
    config[name] = 7
    assert config.steps == 5000
    config.steps = 20
    assert (config[name], config.steps) == (7, 20)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sparsity": 1.5}, ["config.sparsity is 1.5", "[0, 1]"]),
        ({"sparsity": float("nan")}, ["config.sparsity is nan"]),
        ({"drop_fraction": -0.1}, ["config.drop_fraction"]),
        ({"second_moment": "means"}, ["config.second_moment is 'means'", "did you mean 'mean'?"]),
        ({"method": "rigle"}, ["config.method is 'rigle'", "did you mean 'rigl'?", "static"]),
        ({"distribution": "erk"}, ["config.distribution is 'erk'", "erdos_renyi_kernel"]),
        ({"optimizer": "adam"}, ["did you mean 'adamw'?"]),
        ({"steps": 0}, ["config.steps is 0"]),
        ({"batch_size": 0}, ["config.batch_size is 0"]),
        ({"learning_rate": 0.0}, ["config.learning_rate is 0.0"]),
        ({"seed": -1}, ["config.seed is -1"]),
        ({"seed": 2**32}, ["config.seed is 4294967296", "2**31"]),
        ({"warmup_steps": 5000}, ["config.warmup_steps is 5000", "less than steps = 5000"]),
        ({"method": "gmp", "begin_step": 3800}, ["begin_step and end_step is (3800, 3750)"]),
        ({"method": "rigl", "end_step": 5001}, ["<= steps = 5000"]),
        ({"begin_step": -1}, ["config.begin_step is -1", "whole number of at least 0"]),
        ({"method": "rule"}, ["config.rule is ''", "'module:function'"]),
        ({"model": {"name": "mpl", "widths": (3,)}}, ["config.model.name is 'mpl'", "did you mean 'mlp'?"]),
        (
            {"model": {"name": "mlp", "width": (3,)}},
            ["config.model.width is no field", "did you mean 'widths'?"],
        ),
        ({"model": {"name": "mlp"}}, ["config.model lacks widths"]),
        ({"model": {"name": "mlp", "widths": (3, 0)}}, ["config.model.widths is (3, 0)"]),
        ({"population": -1}, ["config.population is -1", "whole number of at least 0"]),
        ({"population": True}, ["config.population is True"]),
        ({"population_chunk": -1}, ["config.population_chunk is -1"]),
        ({"sparsities": (0.9,)}, ["config.population is 0", "the seeds of each member"]),
        ({"learning_rates": (0.1,)}, ["config.population is 0"]),
        ({"population": 1, "sparsities": (0.9, 1.2)}, ["config.sparsities is (0.9, 1.2)", "[0, 1]"]),
        ({"population": 1, "learning_rates": (0.1, 0.0)}, ["config.learning_rates is", "above 0"]),
        ({"population": 1, "learning_rates": (0.1, 0.1)}, ["config.learning_rates is (0.1, 0.1)", "once"]),
        ({"population": 1, "sparsities": (0.5,)}, ["config.method='dense'", "rigl"]),
        ({"population": 1, "learning_rates": ("a",)}, ["config.learning_rates is ('a',)"]),
        ({"streaming": True, "population": 3, "population_chunk": 2}, ["population_chunk is 2", "3 members"]),
        ({"method": "fixed"}, ["config.init_from is ''"]),
        ({"accumulate": 0}, ["config.accumulate is 0"]),
        ({"accumulate": 3}, ["config.accumulate is 3", "a divisor of batch_size = 64"]),
        ({"compute_dtype": "bfloat"}, ["did you mean 'bfloat16'?"]),
        ({"ema_decay": 1.0}, ["config.ema_decay is 1.0"]),
        ({"label_smoothing": -0.1}, ["config.label_smoothing is -0.1"]),
        ({"clip_norm": -1.0}, ["config.clip_norm is -1.0"]),
        ({"momentum": 1.0}, ["config.momentum is 1.0"]),
        ({"checkpoint_every": -1}, ["config.checkpoint_every is -1"]),
        ({"keep_checkpoints": 0}, ["config.keep_checkpoints is 0"]),
        ({"batch_norm_batches": -1}, ["config.batch_norm_batches is -1"]),
        ({"eval_batch_size": 0}, ["config.eval_batch_size is 0"]),
        ({"mesh": {"data": 0, "fsdp": 1, "tensor": 1}}, ["config.mesh.data is 0", "-1 or at least 1"]),
        ({"mesh": {"data": 1, "fsdp": 1.5, "tensor": 1}}, ["config.mesh.fsdp is 1.5"]),
        ({"mesh": {"data": 1, "fsdp": 1, "tenser": 1}}, ["config.mesh.tenser is no field", "'tensor'?"]),
        ({"populaton": 2}, ["config.populaton is no field", "did you mean 'population'?"]),
        ({"sparsty": 0.9}, ["config.sparsty is no field", "did you mean 'sparsity'?"]),
    ],
)
def test_refusals_name_the_field(changes, words):
    with pytest.raises(ConfigError) as caught:
        validate_config(_with(**changes))
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_model():
    with pytest.raises(ConfigError, match="did you mean 'lenet'"):
        default_config("lennet")


def test_a_missing_field():
    config = default_config()
    del config.batch_size
    with pytest.raises(ConfigError, match="config lacks batch_size"):
        validate_config(config)


def test_a_population_of_everything():
    validate_config(
        _with(
            population=3, learning_rates=(0.1, 0.2), method="gmp", sparsities=(0.0, 0.9), population_chunk=4
        )
    )
    validate_config(_with(population=3, streaming=True, population_chunk=3))


def test_numbers_that_are_no_list():
    config = _with(population=1)
    with config.ignore_type():
        config.sparsities = 0.9
    with pytest.raises(ConfigError, match=r"config.sparsities is 0.9: give several numbers"):
        validate_config(config)


def test_checkpoints_follow_the_steps():
    config = default_config().lock()
    config.steps = 40
    assert config.checkpoint_every == 8
    validate_config(config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            (name, 3)
            for name in ("mesh", "model", "dataset", "train_split", "data_dir", "augment", "init_from")
        ],
        *[("decay_steps", 3), ("dense_layers", "head/*"), ("dense_layers", (3,)), ("streaming", "yes")],
    ],
)
def test_another_type(name, value):
    config = default_config()
    with config.ignore_type():
        config[name] = value
    with pytest.raises(ConfigError, match=rf"config.{name} is .*: give "):
        validate_config(config)
