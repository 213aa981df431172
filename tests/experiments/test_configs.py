"""Every configuration in the repository is valid, sparse enough, and says what to expect of it."""

import pathlib
import re

import pytest

from experiments.seeds import read_config
from sparsejax.training import validate

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("digits_*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config(path):
    config = read_config(path)
    validate(config)
    kind, method = path.stem.removeprefix("digits_").split("_", 1)
    assert config.model.name == {"mlp": "mlp", "convnet": "lenet"}[kind]
    assert config.method == method
    assert config.sparsity >= 0.95 or method == "dense"
    header = path.read_text().split('"""')[1]
    assert f"python -m experiments.train --config=configs/{path.name} --workdir=runs/{path.stem}" in header
    assert re.search(r"test accuracy \d+\.\d ± \d+\.\d %", header), "measured accuracy with its spread"
    assert re.search(r"\d+ s on 2 cores", header), "measured time and hardware"


def test_the_promised_configs_are_there():
    names = {path.stem for path in CONFIGS}
    assert {f"digits_mlp_{m}" for m in ("dense", "gmp", "rigl", "set", "static", "snip")} <= names
    assert {f"digits_convnet_{m}" for m in ("dense", "gmp", "rigl")} <= names
