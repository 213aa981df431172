"""Learned masks as runs: they go on to the bit, save what they come to, and members share a program."""

import numpy as np
import pytest

from experiments import train
from experiments.config.fields import default_config
from experiments.errors import WorkdirError
from experiments.run import distillation as teach
from experiments.run import prepare
from tests.experiments import killing


def test_gates_and_their_noise_go_on_to_the_bit_and_the_saved_weights_have_none(tmp_path, data_dir):
    config = killing.make_config(
        data_dir,
        "l0",
        steps=40,
        sparsity=0.5,
        gate_learning_rate=0.3,
        begin_step=0,
        eval_every=20,
        checkpoint_every=20,
    )
    result, _ = killing.run(config, tmp_path / "whole")
    _, said = killing.run(config, killing.as_killed(tmp_path / "whole", tmp_path / "run", 20))
    assert "going on from the checkpoint of step 20" in said
    for name in ("params.npz", "masks.npz", "history.npz"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    with np.load(tmp_path / "run" / "params.npz") as params, np.load(tmp_path / "run" / "masks.npz") as masks:
        kernel, mask = params["dense_0/kernel"], masks["dense_0/kernel"]
    gone = ~np.broadcast_to(mask, kernel.shape)
    assert 0 < gone.sum() < gone.size
    assert not kernel[gone].any()
    kept = 1 - gone.sum() / gone.size
    assert result["density_by_layer"]["dense_0/kernel"] == pytest.approx(kept)


def test_convolutions_run_member_by_member_in_one_program(data_dir):
    config = killing.make_config(data_dir, "movement", steps=2, eval_every=2, population=2, sparsity=0.5)
    config.model = default_config("lenet").model
    config.model.channels, config.model.widths, config.begin_step, config.end_step = (2, 3), (8,), 0, 1
    setup = prepare.prepare(config)
    assert len(setup.groups) == 2
    (chunk,) = train.chunks(config, setup, setup.states, 2)
    assert [int(state.step) for state in chunk.states] == [2, 2]


def test_a_teacher_from_a_workdir_teaches_every_member(tmp_path, data_dir):
    dense = killing.make_config(data_dir, "dense", steps=10, checkpoint_every=0)
    killing.run(dense, tmp_path / "teacher")
    config = killing.make_config(data_dir, "gmp", steps=10, eval_every=10, checkpoint_every=0, population=2)
    config.model.widths, config.teacher, config.distill_weight = (6,), str(tmp_path / "teacher"), 1.0
    result, _ = killing.run(config, tmp_path / "run")
    config.teacher = ""
    alone, _ = killing.run(config, tmp_path / "alone")
    assert result["metrics"]["test_loss"] != alone["metrics"]["test_loss"]
    config.teacher = str(tmp_path / "teacher")
    with pytest.raises(WorkdirError, match="another model: 'dense_1/bias' is"):
        teach.load_teacher(config, (8, 8), 7)
    config.teacher = str(tmp_path / "nowhere")
    with pytest.raises(WorkdirError, match=r"holds no params.npz"):
        prepare.prepare(config)
