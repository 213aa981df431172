"""Every configuration in the repository is valid, sparse enough, and says what to expect of it."""

import pathlib
import re

import pytest

from experiments.config.validation import validate_config
from tests.configurations import read_config

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
CONFIGS = sorted([*FOLDER.glob("digits_*.py"), *FOLDER.glob("text_*.py")])
MODELS = {"digits_mlp": "mlp", "digits_convnet": "lenet", "digits_resnet": "resnet", "text_gpt": "gpt"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config(path):
    config = read_config(path)
    validate_config(config)
    kind, method = path.stem.rsplit("_", 1)
    assert config.model.name == MODELS[kind]
    assert config.method == method
    assert config.sparsity >= 0.9 or method == "dense"
    header = path.read_text().split('"""')[1]
    assert f"python -m experiments.train --config=configs/{path.name} --workdir=runs/{path.stem}" in header
    measured = (
        r"\d\.\d+ ± \d\.\d+ bits per byte" if kind == "text_gpt" else r"test accuracy \d+\.\d ± \d+\.\d %"
    )
    assert re.search(measured, header), "measured result with its spread"
    assert re.search(r"\d+ s on 2 cores", header), "measured time and hardware"


def test_the_promised_configs_are_there():
    names = {path.stem for path in CONFIGS}
    assert {f"digits_mlp_{m}" for m in ("dense", "gmp", "rigl", "set", "static", "snip")} <= names
    assert {f"digits_convnet_{m}" for m in ("dense", "gmp", "rigl")} <= names
    assert {f"digits_resnet_{m}" for m in ("dense", "gmp", "rigl")} <= names
    assert {f"text_gpt_{m}" for m in ("dense", "gmp", "rigl", "set")} <= names
