"""Searching, and cutting width and depth, as stages on digits and Python text: what each leaves is what it says."""

import copy
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from experiments.compress import command as compress
from experiments.compress.recipe import command, network, search_problem
from experiments.compress.recipe.options import add_stage, default_recipe
from experiments.compress.recipe.stages import searching, slimming
from experiments.config.fields import default_config
from experiments.errors import ConfigError
from sparsejax.search import Request


def _run(options, workdir):
    out = io.StringIO()
    return compress.run(options, str(workdir), Console(file=out, width=200)), out.getvalue()


def _base(data_dir, model):
    base = default_config(model)
    base.data_dir, base.steps, base.eval_every, base.checkpoint_every = data_dir, 20, 20, 0
    if model == "mlp":
        base.model.widths = (16, 8)
    if model == "gpt":
        base.dataset, base.window, base.batch_size, base.test_split = (
            "python_text/headers",
            16,
            4,
            "test[:20%]",
        )
        base.model.width, base.model.depth, base.model.heads, base.model.mlp_dim = 16, 3, 2, 32
    return base


@pytest.fixture(scope="module")
def searched(tmp_path_factory, data_dir):
    """Units of an MLP, then weights of what is left of it."""
    options = default_recipe(_base(data_dir, "mlp"))
    options.batches, options.latency_rounds = 2, 0
    add_stage(options, "dense", "train")
    add_stage(options, "units", "search", kinds=("neuron",), evaluations=20, resource="parameters")
    add_stage(options, "small", "shrink")
    add_stage(options, "weights", "search", what="weights", searcher="allocation", resource="weights",
              evaluations=60, steps=3, sensitivity=False, loss="logits")  # fmt: skip
    workdir = tmp_path_factory.mktemp("search") / "run"
    return options, workdir, _run(options, workdir)[0]


def test_the_winner_alone_is_shrunk(searched):
    _, workdir, result = searched
    place = workdir / "seed_0"
    found = json.loads((place / "2_units" / "search.json").read_text())
    assert found["evaluations"] <= 20
    assert found["cost"] <= found["at_most"]
    assert result["stages"]["small"]["parameters"][0] == found["cost"]
    assert result["stages"]["small"]["test_loss"] == pytest.approx(
        result["stages"]["units"]["test_loss"], rel=1e-5
    )
    for name in ("curve.png", "sensitivity.png"):
        assert (place / "2_units" / name).read_bytes().startswith(b"\x89PNG")
    assert "neuron" in (place / "2_units" / "sensitivity.txt").read_text()
    sensitivity = json.loads((place / "2_units" / "sensitivity.json").read_text())
    assert set(sensitivity["groups"]) == set(found["choice"])


def test_the_network_of_a_choice_loses_what_the_search_saw(searched):
    options, workdir, _ = searched
    context = command.build_context(options, options.base)
    for number, label, before in ((2, "units", "1_dense"), (4, "weights", "3_small")):
        source = network.load_network(workdir / "seed_0" / before)
        made = search_problem.build_problem(context, source, options[label])
        stored = json.loads((workdir / "seed_0" / f"{number}_{label}" / "search.json").read_text())
        choice = made.problem.choice_of(stored["choice"])
        loss = jax.jit(search_problem.loss_function(source, options[label].loss))
        final = network.load_network(workdir / "seed_0" / f"{number}_{label}")
        expected = np.mean([float(loss(final.variables, *batch)) for batch in context.batches])
        assert stored["loss"] == pytest.approx(expected, rel=1e-4)
        assert made.problem.loss([Request(choice)])[0] == pytest.approx(expected, rel=1e-4)
        assert made.held_out([Request(choice)])[0] > 0


def test_candidates_are_fine_tuned_before_they_are_judged(searched, tmp_path):
    options, workdir, _ = searched
    context = command.build_context(options, options.base)
    source = network.load_network(workdir / "seed_0" / "1_dense")
    changed = copy.deepcopy(options.units).unlock()
    changed.tune_steps, changed.searcher, changed.sensitivity = 40, "netadapt_tuned", False
    plain, tuned = (search_problem.build_problem(context, source, o) for o in (options.units, changed))
    half = Request(tuple(count // 2 for count in tuned.problem.levels))
    assert tuned.held_out([half])[0] < plain.held_out([half])[0] - 0.02
    found = searching.SEARCH.run(context, source, changed, tmp_path)
    stored = json.loads((tmp_path / "search.json").read_text())
    assert stored["cost"] <= stored["at_most"]
    assert found.masks is not None
    paths = [json.loads(line).get("path") for line in (tmp_path / "search.jsonl").read_text().splitlines()]
    assert any(paths)  # each step went on from the weights of the last
    changed.tune_steps = 0
    with pytest.raises(ConfigError, match="give tune_steps="):
        searching.SEARCH.run(context, source, changed, tmp_path)


def test_weights_keep_the_total(searched):
    _, workdir, result = searched
    stages = result["stages"]
    found = json.loads((workdir / "seed_0" / "4_weights" / "search.json").read_text())
    assert found["cost"] <= found["at_most"]
    assert stages["weights"]["nonzero"][0] < 0.75 * stages["small"]["parameters"][0]


@pytest.fixture(scope="module")
def slim(tmp_path_factory, data_dir):
    """A GPT cut in width, and in depth, then trained towards the original or from a new draw."""
    options = default_recipe(_base(data_dir, "gpt"))
    options.batches, options.latency_rounds = 1, 0
    add_stage(options, "dense", "train")
    add_stage(options, "narrow", "width", share=0.5)
    add_stage(options, "shallow", "depth", drop=1)
    add_stage(options, "taught", "distil", steps=10)
    add_stage(options, "drawn", "redraw")
    workdir = tmp_path_factory.mktemp("slim") / "run"
    return options, workdir, _run(options, workdir)[0]


def test_width_and_depth_are_uniform_and_load(slim):
    _, workdir, result = slim
    stages = result["stages"]
    assert stages["narrow"]["parameters"][0] <= 0.5 * stages["dense"]["parameters"][0]
    assert 3 * stages["shallow"]["kv_bytes"][0] == 2 * stages["narrow"]["kv_bytes"][0]
    assert stages["taught"]["parameters"] == stages["shallow"]["parameters"] == stages["drawn"]["parameters"]
    found = network.load_network(workdir / "seed_0" / "4_taught")
    params = found.variables["params"]
    assert found.sizes["depth"] == 2
    assert {name for name in params if name.startswith("block")} == {"block_0", "block_1"}
    assert len({params[f"block_{i}"]["mlp"]["up"]["kernel"].shape for i in range(2)}) == 1
    assert stages["taught"]["test_loss"][0] < stages["shallow"]["test_loss"][0]
    drawn = network.load_network(workdir / "seed_0" / "5_drawn").variables["params"]
    assert float(jnp.std(drawn["block_0"]["mlp"]["up"]["kernel"])) == pytest.approx(0.02, rel=0.3)


def test_blocks_are_ranked_by_what_they_do(slim):
    options, workdir, _ = slim
    context = command.build_context(options, options.base)
    dense = network.load_network(workdir / "seed_0" / "1_dense")
    losses = slimming.block_losses(context, dense)
    params = dict(dense.variables["params"])
    # A block that adds nothing turns nothing, loses nothing, and goes first.
    params["block_1"] = jax.tree.map(jnp.zeros_like, params["block_1"])
    idle = dense._replace(variables={**dense.variables, "params": params})
    influences = slimming.block_influences(context, idle)
    assert losses.shape == (3,)
    assert np.argmin(influences) == 1
    assert influences[1] == pytest.approx(0, abs=1e-6)
    assert slimming.block_losses(context, idle)[1] == pytest.approx(0, abs=1e-7)
    shallow = slimming.keep_blocks(idle, [0, 2])
    np.testing.assert_array_equal(
        shallow.variables["params"]["block_1"]["mlp"]["up"]["kernel"],
        params["block_2"]["mlp"]["up"]["kernel"],
    )
    inputs = context.batches[0].inputs
    np.testing.assert_allclose(
        shallow.function()(shallow.variables, inputs),
        idle.function()(idle.variables, inputs),
        rtol=2e-5,
        atol=1e-5,
    )


def test_what_does_not_go_together(slim, data_dir):
    options, workdir, _ = slim
    context = command.build_context(options, options.base)
    dense = network.load_network(workdir / "seed_0" / "1_dense")
    with pytest.raises(ConfigError, match="leave one at least"):
        slimming.DEPTH.run(context, dense, _fields(slimming.DEPTH, drop=3), workdir)
    masked = dense._replace(masks=dense.variables["params"])
    with pytest.raises(ConfigError, match="put 'shrink' before"):
        slimming.DEPTH.run(context, masked, _fields(slimming.DEPTH), workdir)
    other = dense._replace(sizes={"name": "mlp"})
    with pytest.raises(ConfigError, match="not of 'mlp'"):
        slimming.WIDTH.run(context, other, _fields(slimming.WIDTH), workdir)
    from experiments.compress.recipe.stages.searching import SEARCH

    with pytest.raises(ConfigError, match=r"what='weights': choose one of weights\."):
        search_problem.build_problem(context, dense, _fields(SEARCH, what="weights"))


def _fields(stage, **changes):
    return ConfigDict({**{name: field.default for name, field in stage.fields.items()}, **changes})
