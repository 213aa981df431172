"""Brute force on a tiny network of Magika's form: the optimum is one, and the command meets it and resumes."""

import io
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.data.machine_files import MachineFiles
from experiments.errors import ConfigError
from experiments.models.magika import Magika, magika_logits
from experiments.search import command, magika, magika_choices
from sparsejax import post_training
from sparsejax.errors import SearchError
from tests.configurations import read_config

CONFIG = pathlib.Path(__file__).parents[3] / "configs" / "search" / "magika.py"


def _params(seed=0, classes=6):
    rng = np.random.default_rng(seed)
    shapes = {
        "embed": {"embedding": (257, 4), "bias": (4,)},
        "norm_0": {"scale": (512,), "bias": (512,)},
        "conv": {"kernel": (5, 16, 24), "bias": (24,)},
        "norm_1": {"scale": (24,), "bias": (24,)},
        "head": {"kernel": (24, classes), "bias": (classes,)},
    }
    draw = lambda shape: jnp.asarray(rng.normal(size=shape) * 0.5, jnp.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))


def _files(count=60):
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 257, (count, 2048)).astype(np.int32)
    return MachineFiles(tokens, np.arange(count, dtype=np.int32) % 6, {"python": count}, "0")


def _options():
    options = read_config(CONFIG).unlock()
    options.conv_sparsities, options.head_sparsities, options.embedding_bits = (0.0, 0.6), (0.0, 0.5), (8, 4)
    options.draws, options.calibration_files, options.search_files, options.test_files = 1, 12, 6, 8
    options.times_smaller, options.evaluations = 1.8, 20
    options.searchers = ("uniform", "allocation", "evopress", "amc")
    return options


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("magika") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(magika, "load_magika", lambda: Magika(_params(), tuple("abcdef")))
        patch.setattr(magika, "read_machine_files", lambda labels, most: _files())
        return workdir, command.run(_options(), str(workdir), Console(file=io.StringIO(), width=200))


def test_every_loss_is_that_of_the_whole_network():
    params, options, found = _params(), _options(), _files()
    levels, rest = magika_choices.make_levels(options, params, found.tokens[:12])
    tokens = found.tokens[12:18]
    losses = magika_choices.every_loss(params, levels, tokens)
    assert losses.shape == (*map(len, levels.values()), 6)
    dense = jax.nn.log_softmax(magika_logits(params, tokens))
    for chosen in itertools.product(*(range(0, len(row), 2) for row in levels.values())):
        made = post_training.dequantize(magika_choices.with_levels(params, levels, chosen)[0])
        outputs = jax.nn.log_softmax(magika_logits(made, tokens))
        np.testing.assert_allclose(
            losses[chosen], np.sum(np.exp(dense) * (dense - outputs), -1), rtol=1e-3, atol=1e-6
        )
    for row in levels.values():
        assert all(a.bytes > b.bytes for a, b in itertools.pairwise(row))
    assert rest > 0


def test_no_searcher_is_below_the_optimum_and_files_have_the_bytes_that_were_counted(finished):
    workdir, result = finished
    assert json.loads((workdir / "result.json").read_text()) == json.loads(json.dumps(result))
    optimum = result["searchers"]["optimum"]
    for name, row in result["searchers"].items():
        assert all(over >= 0 for over in row["over_optimum"]), name
        assert all(size <= 4 * sum(x.size for x in jax.tree.leaves(_params())) / 1.8 for size in row["bytes"])
    assert optimum["over_optimum"] == [0]
    for counted, real in zip(optimum["bytes"], result["file_bytes"], strict=True):
        assert (
            0.97 * real <= counted <= 1.03 * real
        )  # the header's text differs a little from choice to choice
    assert 0 < min(result["fitting"]) <= max(result["fitting"]) < result["choices"]
    assert "the optimum is known" in (workdir / "summary.txt").read_text()


def test_a_finished_draw_is_not_made_again(finished, monkeypatch):
    workdir, result = finished
    (workdir / "result.json").unlink()
    monkeypatch.setattr(magika, "load_magika", lambda: Magika(_params(), tuple("abcdef")))
    monkeypatch.setattr(magika, "read_machine_files", lambda labels, most: _files())
    monkeypatch.setattr(magika, "make_levels", None)
    again = command.run(_options(), str(workdir), Console(file=io.StringIO()))
    assert again["searchers"] == result["searchers"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conv_sparsities", (1.0,)),
        ("bits", (9,)),
        ("draws", 0),
        ("searchers", ("evopres",)),
        ("times_smaller", 1.0),
        ("typo", 1),
    ],
)
def test_options_that_do_not_fit_are_refused(name, value):
    options = _options()
    options[name] = value
    with pytest.raises(ConfigError, match=name):
        magika.validate_magika_search(options)


def test_a_budget_below_the_smallest_file_says_what_can_be_met(tmp_path, monkeypatch):
    monkeypatch.setattr(magika, "load_magika", lambda: Magika(_params(), tuple("abcdef")))
    monkeypatch.setattr(magika, "read_machine_files", lambda labels, most: _files())
    options = _options()
    options.times_smaller = 1000.0
    with pytest.raises(SearchError, match="cannot be met: the whole model has"):
        command.run(options, str(tmp_path / "run"), Console(file=io.StringIO()))
