"""Every configuration in the repository is valid at any number of steps, and says what to expect of it."""

import io
import pathlib
import re

import pytest
from ml_collections import ConfigDict
from rich.console import Console

from experiments import train
from experiments.compress.options import validate_compression
from experiments.compress.recipe.options import validate_recipe
from experiments.config.validation import validate_config
from experiments.errors import ConfigError
from experiments.lottery.options import check as check_lottery
from experiments.one_shot.options import check as check_one_shot
from experiments.orders.options import check as check_orders
from experiments.search.options import validate_search
from experiments.study import options as study_options
from tests.configurations import read_config

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
#: File -> its model, and the methods that it has.
SHARED = {
    "digits_mlp": ("mlp", ("dense", "gmp", "rigl", "set", "static", "snip")),
    "digits_convnet": ("lenet", ("dense", "gmp", "rigl")),
    "digits_resnet": ("resnet", ("dense", "gmp", "rigl")),
    "text_gpt": ("gpt", ("dense", "gmp", "rigl", "set")),
}
CASES = [(name, method) for name, (_, methods) in SHARED.items() for method in methods]
SINGLE = [path for path in sorted(FOLDER.glob("*.py")) if path.stem not in (*SHARED, "from_json")]
STUDIES = [
    path
    for kind in ("studies", "lottery", "compress", "one_shot", "orders", "recipes", "search")
    for path in sorted((FOLDER / kind).glob("*.py"))
    # Nothing is trained there: test_magika.py of either folder reads them.
    if (kind, path.stem) not in (("compress", "magika"), ("search", "magika"))
]
CHECKS = {
    "studies": lambda study: study_options.check(study_options.completed(study)),
    "lottery": check_lottery,
    "compress": validate_compression,
    "one_shot": check_one_shot,
    "orders": check_orders,
    "recipes": validate_recipe,
    "search": validate_search,
}


@pytest.mark.parametrize(("name", "method"), CASES)
def test_config(name, method):
    config = read_config(FOLDER / f"{name}.py", method)
    validate_config(config)
    assert config.model.name == SHARED[name][0]
    assert config.method == method
    assert config.sparsity >= 0.9 or method == "dense"
    header = (FOLDER / f"{name}.py").read_text().split('"""')[1]
    assert re.search(rf"\| {method} \| \d+\.\d+ ± \d+\.\d+( %)? \| \d+ s \|", header), (
        "measured, with its spread"
    )


@pytest.mark.parametrize("name", SHARED)
def test_headers_say_command_and_hardware(name):
    header = (FOLDER / f"{name}.py").read_text().split('"""')[1]
    assert f"python -m experiments.train --config=configs/{name}.py:rigl --workdir=runs/{name}_rigl" in header
    assert "2 cores" in header
    with pytest.raises(ConfigError, match="did you mean 'rigl'"):
        read_config(FOLDER / f"{name}.py", "rigle")


def _a_tenth(config: ConfigDict) -> ConfigDict:
    config.steps = config.steps // 10
    return config


@pytest.mark.parametrize(("name", "method"), CASES)
def test_times_follow_a_tenth_of_the_steps(name, method):
    validate_config(_a_tenth(read_config(FOLDER / f"{name}.py", method)))


@pytest.mark.parametrize("path", SINGLE, ids=lambda path: path.stem)
def test_times_of_full_size_configs_follow_a_tenth_of_the_steps(path):
    validate_config(_a_tenth(read_config(path)))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
@pytest.mark.parametrize("share", [1, 10])
def test_times_of_studies_follow_the_steps_of_their_base(path, share):
    study = read_config(path)
    study.base.steps = study.base.steps // share
    CHECKS[path.parent.name](study)


@pytest.mark.parametrize("method", ["dense", "rigl"])
def test_a_tenth_of_the_steps_runs(tmp_path, data_dir, method):
    config = _a_tenth(read_config(FOLDER / "digits_mlp.py", method))
    config.data_dir, config.steps = data_dir, config.steps // 5
    config.update_every = 20
    result = train.run(config, str(tmp_path), Console(file=io.StringIO()), plots=False)
    assert result["steps"] == 100
    assert result["sparsity"] == pytest.approx(config.sparsity, abs=1e-3)


def test_every_config_file_is_looked_at():
    seen = {*SHARED, "from_json", *(path.stem for path in SINGLE)}
    assert {path.stem for path in FOLDER.glob("*.py")} == seen
    others = [
        *(FOLDER / "sweeps").glob("*.py"),
        *(FOLDER / kind / "magika.py" for kind in ("compress", "search")),
    ]
    assert len(STUDIES) == len(list(FOLDER.glob("*/*.py"))) - len(others)
