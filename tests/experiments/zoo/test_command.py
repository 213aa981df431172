"""The zoo on models that are installed everywhere, and its page."""

import jax.numpy as jnp
import pytest

from experiments.zoo import command, results
from experiments.zoo.examine import examine, xla_flops
from experiments.zoo.model import Model
from experiments.zoo.page import Row, page, totals
from sparsejax.tracing import model_cost
from tests.tracing.functions import CASES
from tests.tracing.mixtures import MIXTURES


def test_what_is_found_is_what_the_tracer_says():
    function = MIXTURES["gathered"]()
    found = examine(function)
    assert found.kinds == {"expert": 1, "neuron": 2}
    assert found.normalized == 1
    assert found.parameters == model_cost(*function).dense.parameters
    assert 0 <= found.difference < 1e-5  # sums in another order, which need not round otherwise
    assert 0.1 < found.removed < 0.6
    fn, params, inputs = function
    assert found.flops == pytest.approx(
        model_cost(*function).dense.flops / xla_flops(fn, params, inputs), rel=0.05
    )
    assert not found.loops
    assert ("an axis of the function's results", 1) in found.excluded
    assert examine(CASES["gqa_scan"]()).loops


def test_what_does_not_change_anything_shows_nothing():
    fn = lambda p, x: x * p["scale"] + 0 * (x @ p["a"] @ p["b"])  # noqa: E731
    params = {"scale": jnp.ones(4), "a": jnp.ones((4, 8)), "b": jnp.ones((8, 4))}
    with pytest.raises(ValueError, match="nothing that counts was pruned"):
        examine((fn, params, (jnp.ones((2, 4)),)))


def broken():
    raise RuntimeError("a library's\n own error")


GOOD = Model("gathered", "jax", ("jax",), MIXTURES["gathered"])
BAD = Model("broken", "jax", ("jax",), broken)
ABSENT = Model("absent", "no-such-library", ("no_such_library",), broken)


def test_errors_and_what_is_not_installed_are_told():
    rows = [command.visit(model) for model in (GOOD, BAD, ABSENT)]
    assert rows[1] == Row(BAD, None, "RuntimeError: a library's own error")
    assert rows[2] == Row(ABSENT)
    assert totals(rows).startswith(
        "**1 models of 1 libraries, 3 groups; shrunk equals masked in 1 of 1; FLOPs within"
    )
    assert totals(rows).endswith("Not examined: 1 that raised an error, 1 not installed.")
    text = page(rows)
    assert "| no-such-library | absent | not installed |" in text
    assert f"| jax | gathered | {rows[0].found.parameters:,} | 1 expert" in text
    assert "1 expert, 2 neuron (1)" in text
    assert "- jax, broken: RuntimeError: a library's own error" in text


def test_what_was_examined_is_not_examined_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "MODELS", [GOOD, BAD, ABSENT])
    path = tmp_path / "zoo.json"
    assert command.main(["--results", str(path), "--out", str(tmp_path / "zoo.md")]) == 0
    first = (tmp_path / "zoo.md").read_text()
    assert set(results.read(path, command.MODELS)) == {results.key(GOOD), results.key(BAD)}
    monkeypatch.setattr(command, "MODELS", [GOOD._replace(make=broken), BAD, ABSENT])
    command.main(["--results", str(path), "--out", str(tmp_path / "zoo.md")])
    assert (tmp_path / "zoo.md").read_text() == first
    assert "jax/gathered: 3 groups" in capsys.readouterr().out


def test_the_catalogue_is_large_enough_and_its_names_differ():
    jax_models = [m for m in command.MODELS if m.library != "transformers"]
    assert len(jax_models) >= 25
    assert len({m.library for m in jax_models}) >= 6
    assert len(command.MODELS) - len(jax_models) >= 20
    names = [(m.library, m.name) for m in command.MODELS]
    assert len(set(names)) == len(names)


def test_a_model_of_flax_is_examined():
    (model,) = (m for m in command.MODELS if m.name == "MultiHeadAttention, qk-norm")
    row = command.visit(model)
    assert row.found.kinds == {"head": 1, "head_dim": 2}
    assert row.found.difference < 1e-5


def test_a_pattern_that_matches_nothing_is_refused_with_the_libraries(capsys):
    with pytest.raises(SystemExit):
        command.main(["--only=torchvision/resnet18"])
    assert "matches no 'library/model'; the libraries are " in capsys.readouterr().err
