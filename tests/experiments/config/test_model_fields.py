"""Every field of `config.model` is checked by name, and what passes is what the models take."""

import jax
import pytest
from flax import nnx
from ml_collections import ConfigDict

from experiments.config.checks import check_names, choice, require
from experiments.config.model_fields import model_fields, validate_model
from experiments.errors import ConfigError
from experiments.models.build import MODELS, build_model


def _model(name, /, **changes):
    return ConfigDict(model_fields(name).to_dict() | changes)


@pytest.mark.parametrize("name", MODELS)
def test_default_sizes_are_valid_and_build(name):
    model = _model(name)
    validate_model(model)
    shape = (16,) if name in ("gpt", "encoder") else (8, 8)
    built = nnx.eval_shape(
        lambda: build_model(model.to_dict(), input_shape=shape, classes=10, rngs=nnx.Rngs(0))
    )
    assert 10_000 < sum(leaf.size for leaf in jax.tree.leaves(nnx.state(built, nnx.Param))) < 400_000


def test_a_size_may_be_a_number_or_none_at_all(monkeypatch):
    entry = MODELS["mlp"]._replace(sizes={"widths": (8,), "dropout": 0.1, "extra": 0})
    monkeypatch.setitem(MODELS, "mlp", entry)
    validate_model(_model("mlp", dropout=0.0, extra=0))
    validate_model(_model("mlp", dropout=1, extra=3))
    for wrong in ({"dropout": -0.1}, {"dropout": float("nan")}, {"dropout": "0.1"}, {"extra": -1}):
        with pytest.raises(ConfigError, match=f"config.model.{next(iter(wrong))} is"):
            validate_model(_model("mlp", **wrong))


def test_sizes_that_may_be_changed():
    validate_model(_model("gpt", width=96, heads=6, kv_heads=2, mlp="swiglu", norm="rms", tied=False))
    validate_model(_model("gpt", width=12, heads=4, positions="learned"))
    validate_model(_model("vit", positions="sincos", pool="gap", scan=True))
    validate_model(_model("resnet", stages=[3, 4, 6, 3], block="bottleneck", zero_init_residual=True))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("mlp", {"name": "gtp"}, ["config.model.name is 'gtp'", "did you mean 'gpt'?", "resnet"]),
        ("mlp", {"width": (3,)}, ["config.model.width is no field", "did you mean 'widths'?"]),
        ("mlp", {"name": "lenet"}, ["config.model lacks channels, kernel, padding"]),
        ("mlp", {"widths": (3, 0)}, ["config.model.widths is (3, 0)", "at least 1"]),
        ("mlp", {"widths": 3}, ["config.model.widths is 3", "'(300, 100)'"]),
        ("lenet", {"padding": "same"}, ["config.model.padding is 'same'", "SAME, VALID"]),
        ("lenet", {"kernel": 0}, ["config.model.kernel is 0"]),
        ("resnet", {"stages": ()}, ["config.model.stages is ()", "at least one stage"]),
        ("resnet", {"norm": "layer"}, ["config.model.norm is 'layer'", "batch, group"]),
        ("resnet", {"zero_init_residual": 1}, ["config.model.zero_init_residual is 1", "True or False"]),
        ("resnet", {"block": "botleneck"}, ["did you mean 'bottleneck'?"]),
        ("vit", {"patch": 2.0}, ["config.model.patch is 2.0", "whole number"]),
        ("vit", {"width": True}, ["config.model.width is True"]),
        ("vit", {"positions": "rotary"}, ["config.model.positions is 'rotary'", "learned, sincos"]),
        ("vit", {"width": 6, "heads": 2, "positions": "sincos"}, ["config.model.width is 6", "by 4"]),
        ("gpt", {"heads": 5}, ["config.model.heads is 5", "a divisor of model.width = 64"]),
        ("gpt", {"kv_heads": 3}, ["config.model.kv_heads is 3", "a divisor of model.heads = 4"]),
        ("gpt", {"kv_heads": -1}, ["config.model.kv_heads is -1", "0: as many as heads"]),
        ("gpt", {"width": 12, "heads": 4}, ["config.model.positions is 'rotary'", "width / heads = 3"]),
        ("gpt", {"depth": 0}, ["config.model.depth is 0"]),
        ("gpt", {"scan": "yes"}, ["config.model.scan is 'yes'", "True or False"]),
        ("encoder", {"heads": 7}, ["config.model.heads is 7"]),
    ],
)
def test_refusals_name_the_field(name, changes, words):
    with pytest.raises(ConfigError) as caught:
        validate_model(_model(name, **changes))
    for word in words:
        assert word in str(caught.value)


def test_the_checks_themselves():
    with pytest.raises(ConfigError, match=r"config.steps is 0: give a whole number."):
        require(False, "steps", 0, "a whole number")
    with pytest.raises(ConfigError, match=r"config.method is 'zzz': choose one of rigl, set"):
        choice("zzz", ("rigl", "set"), "method")
    with pytest.raises(ConfigError, match=r"config lacks seed: start from"):
        check_names({"steps": 1}, ("steps", "seed"), "config")
