"""Runs in the compressed form: exact counts, dense files, bit-exact resume, a population, and what is refused."""

import itertools

import numpy as np
import pytest

from experiments.config.fields import default_config
from experiments.config.validation import validate_config
from experiments.errors import ConfigError
from tests.experiments import killing

STEPS = 30


def make_config(data_dir="", model="vit", **changes):
    """A tiny transformer on the digits whose blocks of 8×8 are trained by RigL."""
    config = default_config(model)
    sizes = {"patch": 4, "width": 16, "depth": 1, "heads": 2, "mlp_dim": 32} if model == "vit" else {}
    config.model.update({**sizes, "sparse_compute": "blocks"})
    config.block, config.dense_layers = 8, ("head/*", "patch_embedding/*") if model == "vit" else ()
    config.method, config.sparsity = "rigl", 0.5
    config.steps, config.eval_every, config.checkpoint_every = STEPS, 10, 10
    config.update_every, config.data_dir, config.batch_size = 4, data_dir, 16
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, data_dir):
    """The result and the workdir of a run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("blocks") / "run"
    return killing.run(make_config(data_dir), workdir)[0], workdir


def test_counts_are_exact_and_files_are_dense(unbroken):
    result, workdir = unbroken
    with np.load(workdir / "masks.npz") as masks, np.load(workdir / "params.npz") as params:
        kernels = [name for name in masks.files if masks[name].ndim]
        assert len(kernels) == 6
        for name in kernels:
            mask, kernel = masks[name], params[name]
            assert mask.shape == kernel.shape
            assert not kernel[~mask].any()
            matrix = mask.reshape(
                16 if name.endswith(("query/kernel", "key/kernel", "value/kernel")) else -1, 16
            )
            if "mlp" not in name:
                blocks = matrix.reshape(2, 8, 2, 8)
                assert (blocks == blocks[:, :1, :, :1]).all()  # whole blocks of 8×8
            assert mask.mean() == result["density_by_layer"][name]
    assert result["sparsity"] == pytest.approx(0.5, abs=0.13)
    assert result["parameters"] > 2000
    assert result["training_flops"]["relative"] < 0.8


def test_a_killed_run_ends_with_the_same_bytes(tmp_path, unbroken, data_dir):
    killed = killing.as_killed(unbroken[1], tmp_path / "run", 10)
    result, said = killing.run(make_config(data_dir), killed)
    assert "checkpoint of step 10" in said
    assert result["metrics"] == unbroken[0]["metrics"]
    for name in ("params.npz", "masks.npz", "history.npz"):
        assert (tmp_path / "run" / name).read_bytes() == (unbroken[1] / name).read_bytes()


@pytest.mark.slow
def test_a_member_of_a_population_is_the_single_run(tmp_path, unbroken, data_dir):
    result, _ = killing.run(make_config(data_dir, population=2), tmp_path / "run")
    single = unbroken[0]["metrics"]
    together = result["metrics"]
    assert together["train_loss"][0] == pytest.approx(single["train_loss"], rel=1e-4)
    assert together["train_loss"][0] != together["train_loss"][1]


@pytest.mark.slow
def test_gradual_pruning_begins_dense(tmp_path, data_dir):
    config = make_config(data_dir, method="gmp", begin_step=4, end_step=20, accumulate=2)
    killing.run(config, tmp_path / "run")
    with np.load(tmp_path / "run" / "history.npz") as history:
        sparsity = history["sparsity"]
    assert sparsity[0] == 0.0
    assert sparsity[-1] == pytest.approx(0.5, abs=0.13)
    assert all(a <= b for a, b in itertools.pairwise(sparsity))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "l0"}, "config.method is 'l0'"),
        ({"pattern": "sparsejax.patterns:Unstructured"}, "config.pattern"),
        ({"ema_decay": 0.9}, "config.ema_decay"),
        ({"sparsities": (0.5, 0.9), "population": 1}, "config.sparsities"),
        ({"block": 7}, "a multiple of config.block = 7"),
        ({"mesh": {"data": 1, "fsdp": 2, "tensor": 1}}, "config.mesh.fsdp"),
    ],
)
def test_what_the_form_does_not_have_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        validate_config(make_config(**changes))


def test_stacked_blocks_are_refused():
    config = make_config()
    config.model.scan = True
    with pytest.raises(ConfigError, match=r"config\.model\.scan"):
        validate_config(config)
