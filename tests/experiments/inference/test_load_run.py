"""A finished run as a model: equal logits, exact zeros, and a sentence for whatever is no finished run."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from experiments.config.fields import default_config
from experiments.data.loading import load_splits
from experiments.errors import WorkdirError
from experiments.inference import load_run
from experiments.run.objective import example_losses
from sparsejax.errors import EvaluationError
from sparsejax.params.paths import flatten_with_paths
from tests.experiments import killing

CASES = {
    # Single weights, in the parameters themselves.
    "mlp-rigl": {"method": "rigl", "augment": "digits_shift"},
    # Batch norm, averaged parameters, bfloat16 products.
    "resnet-gmp": {"method": "gmp", "ema_decay": 0.9, "compute_dtype": "bfloat16"},
    # Latents in the optimizer's state.
    "mlp-soft_movement": {"method": "soft_movement", "sparsity": 0.0, "penalty_weight": 1.0},
    # Gates with noise, tied over two layers.
    "mlp-l0": {"method": "l0", "sparsity": 0.5, "gates": "neurons"},
    "vit-straight_through": {"method": "straight_through"},
    "gpt-gmp": {"method": "gmp", "dataset": "python_text/headers", "window": 16, "test_split": "test[:20%]"},
}  # fmt: skip
LONG = ("resnet-gmp", "mlp-soft_movement", "gpt-gmp")
SIZES = {
    "vit": {"name": "vit", "patch": 4, "width": 8, "depth": 1, "heads": 2, "mlp_dim": 16},
    "resnet": {"name": "resnet", "stages": (1,), "width": 4},
    "gpt": {"name": "gpt", "width": 16, "depth": 1, "heads": 2, "mlp_dim": 16},
}


def _config(data_dir, case):
    name, changes = case.partition("-")[0], CASES[case]
    config = killing.make_config(
        data_dir, **{"steps": 20, "checkpoint_every": 0, "batch_size": 16, **changes}
    )
    if name in SIZES:
        config.model = default_config(name).model
        config.model.update(SIZES[name])
    return config


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] if case in LONG else []) for case in CASES],
)
def test_the_loaded_model_does_what_the_run_measured(case, tmp_path, data_dir):
    config = _config(data_dir, case)
    result, _ = killing.run(config, tmp_path)
    loaded = load_run(tmp_path)
    test = load_splits(config.dataset, (config.test_split,), data_dir, window=config.window)[0]
    batch = test.take(jnp.arange(test.size))
    logits = loaded.predict(batch.inputs)
    assert logits.dtype == jnp.float32
    losses, right = example_losses(logits, batch.targets)
    # The run adds up batches of 512 in float64; bfloat16 products of another batch round otherwise.
    tolerance = 1e-2 if config.compute_dtype == "bfloat16" else 1e-5
    assert float(losses.mean()) == pytest.approx(result["metrics"]["test_loss"], rel=tolerance)
    assert float(right.mean()) == pytest.approx(result["metrics"]["test_accuracy"], abs=tolerance)
    assert loaded.metrics == result["metrics"]
    assert repr(loaded).startswith(f"Trained({config.model.name} on {config.dataset}, {config.method}: ")
    assert len(repr(loaded)) < 200
    assert json.loads(loaded.config.to_json()) == result["config"]
    with np.load(tmp_path / "params.npz") as stored, np.load(tmp_path / "masks.npz") as masks:
        for name, leaf in zip(*flatten_with_paths(loaded.params)[:2], strict=True):
            np.testing.assert_array_equal(np.asarray(leaf), stored[name], err_msg=name)
            off = ~np.broadcast_to(masks[name], leaf.shape)
            assert not np.any(np.asarray(leaf)[off])
    kept = sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(loaded.params))
    assert kept == result["nonzero"]
    assert float(sparsejax.masks.sparsity(loaded.masks, loaded.params)) == pytest.approx(
        result["sparsity"], abs=1e-6
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """A finished run of the digits, and its result."""
    place = tmp_path_factory.mktemp("finished") / "run"
    config = killing.make_config(data_dir, steps=20, checkpoint_every=0)
    return place, killing.run(config, place)[0]


def _copy(finished, tmp_path):
    return pathlib.Path(shutil.copytree(finished[0], tmp_path / "copy"))


def test_pixels_are_scaled_as_the_data_set_says(finished):
    loaded = load_run(str(finished[0]))
    pixels = np.arange(128).reshape(2, 8, 8) % 17
    np.testing.assert_array_equal(loaded.predict(pixels), loaded.predict(np.float32(pixels / 16)))
    np.testing.assert_array_equal(loaded.predict(pixels), loaded.module(jnp.float32(pixels / 16)))


def test_the_tracer_takes_the_function_and_the_parameters(finished):
    loaded = load_run(finished[0])
    images = jax.ShapeDtypeStruct((1, 8, 8), jnp.float32)
    cost = sparsejax.model_cost(loaded.apply, loaded.params, images)
    assert 2 * cost.dense.multiply_adds == finished[1]["inference_flops"]["dense"]


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (np.zeros((2, 7, 8), np.float32), r"float32 \(2, 7, 8\); this model takes images \(batch, 8, 8\)"),
        (np.zeros((8, 8), np.float32), r"float32 \(8, 8\)"),
        (np.zeros((2, 8, 8), bool), r"bool \(2, 8, 8\)"),
    ],
)
def test_inputs_of_another_kind_are_refused(finished, inputs, told):
    with pytest.raises(EvaluationError, match=told):
        load_run(finished[0]).predict(inputs)


def test_no_run_is_told_with_what_to_give_instead(finished, tmp_path):
    with pytest.raises(WorkdirError, match=r"holds no run: give the --workdir of a finished run"):
        load_run(tmp_path / "absent")
    with pytest.raises(WorkdirError, match=rf"holds no run: .* such as {finished[0]}"):
        load_run(finished[0].parent)
    (tmp_path / "config.json").write_text('{"methods": ["rigl"]}')
    with pytest.raises(WorkdirError, match="holds several runs, not one"):
        load_run(tmp_path)


def test_an_unfinished_run_says_how_far_it_is_and_goes_on(tmp_path, data_dir):
    config = killing.make_config(data_dir)
    process = killing.start(config, tmp_path / "run")
    killing.wait_until(lambda: killing.saved_steps(tmp_path / "run"), process)
    assert killing.kill(process)
    with pytest.raises(
        WorkdirError, match=r"not finished: (\d+) of 60 steps .* checkpoint is of step (\d+)\."
    ) as told:
        load_run(tmp_path / "run")
    command = str(told.value).partition("goes on with it: ")[2].split()
    assert command[:3] == ["python", "-m", "experiments.train"]
    resumed = killing.command(command[3:], tmp_path / "out")
    resumed.join(killing.DEADLINE)
    said = (tmp_path / "out").read_text()
    assert "going on from the checkpoint of step" in said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert load_run(tmp_path / "run").metrics == result["metrics"], said


def test_an_extension_on_its_way_is_not_taken_for_the_end_before_it(finished, tmp_path):
    place = _copy(finished, tmp_path)
    stored = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(stored | {"steps": 40, "extended": [20]}))
    with pytest.raises(
        WorkdirError, match=r"is not finished: 20 of 40 steps are done, and it has no checkpoint"
    ):
        load_run(place)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"network": None}, r"another version of sparsejax .* layout of its files has none, here it is 1"),
        ({"layout": 2}, "layout of its files is 2, here it is 1; load it with that one"),
        ({"field": "novelty"}, "the fields novelty are not the same"),
        ({"size": "height"}, r"the fields model\.height are not the same"),
    ],
)
def test_what_another_version_wrote_is_refused(finished, tmp_path, changed, told):
    place = _copy(finished, tmp_path)
    for name in ("config.json", "result.json"):
        stored = json.loads((place / name).read_text())
        config = stored["config"] if name == "result.json" else stored
        if "field" in changed:
            config[changed["field"]] = 1
        if "size" in changed:
            config["model"][changed["size"]] = 1
        if name == "result.json" and "network" in changed:
            del stored["network"]
        if name == "result.json" and "layout" in changed:
            stored["network"]["layout"] = changed["layout"]
        (place / name).write_text(json.dumps(stored))
    with pytest.raises(WorkdirError, match=told):
        load_run(place)


def test_damaged_arrays_are_named(finished, tmp_path):
    place = _copy(finished, tmp_path)
    (place / "params.npz").write_bytes(b"no zip")
    with pytest.raises(WorkdirError, match=r"params\.npz cannot be read"):
        load_run(place)
    np.savez(place / "params.npz", other=np.zeros(3))
    with pytest.raises(WorkdirError, match="holds arrays of another model"):
        load_run(place)


def test_of_a_population_a_member_is_loaded(tmp_path, data_dir):
    config = killing.make_config(data_dir, steps=20, checkpoint_every=0, population=2)
    result, _ = killing.run(config, tmp_path)
    with pytest.raises(
        WorkdirError, match=r"population of 2 runs: .* such as .*seed_0-sparsity_0\.95"
    ) as told:
        load_run(tmp_path)
    member = str(told.value).rpartition("such as ")[2].rstrip(".")
    loaded = load_run(member)
    assert loaded.metrics == {name: values[0] for name, values in result["metrics"].items()}
    test = load_splits("digits", ("test",), data_dir)[0].take(jnp.arange(360))
    right = jnp.argmax(loaded.predict(test.inputs), -1) == test.targets
    assert float(right.mean()) == pytest.approx(loaded.metrics["test_accuracy"], abs=1e-6)
