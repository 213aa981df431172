"""Lottery studies on real digits: killed and resumed, nothing twice; starts, masks and controls as they should be."""

import copy
import io
import itertools
import json
import pathlib
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from experiments import train
from experiments.errors import ConfigError, Interrupted, WorkdirError
from experiments.lottery import command as lottery
from experiments.lottery.options import check
from experiments.record.outcome import as_json
from sparsejax.errors import SparsityError
from tests.configurations import read_config

CONFIGS = sorted((pathlib.Path(__file__).parents[3] / "configs" / "lottery").glob("*.py"))
ARMS = ("ticket", "reinit", "shuffled", "random")


def _study(data_dir, **changes):
    """Two seeds, two levels, rewound to step 10 of 30."""
    study = copy.deepcopy(read_config(CONFIGS[0].with_name("digits_mlp.py"))).unlock()
    study.base.update(ConfigDict({"population": 2, "steps": 30, "eval_every": 10, "data_dir": data_dir}))
    study.base.model.widths = (24,)
    study.levels, study.fraction, study.rewind_step, study.connectivity = 2, 0.5, 10, True
    study.update(ConfigDict(changes))
    return study


def _run(study, workdir):
    out = io.StringIO()
    return lottery.run(study, str(workdir), Console(file=out, width=200)), out.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """A study that was stopped in the middle of level 1, and taken up again."""
    workdir, study, whole = tmp_path_factory.mktemp("lottery") / "study", _study(data_dir), train.run
    begun = []

    def stopped_at_the_sixth(config, place, *rest, **options):
        begun.append(place)
        if len(begun) == 6:  # step_10; ticket and other order of level 0; ticket, reinit, shuffled of level 1
            raise Interrupted("Stopped as asked.")
        return whole(config, place, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "run", stopped_at_the_sixth)
        with pytest.raises(Interrupted):
            _run(study, workdir)
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("result.json")}
    assert len([path for path in before if path.parent.name in ("run", "step_10")]) == 5
    result, said = _run(study, workdir)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    return workdir, study, result, said


def _arrays(path):
    with np.load(path) as stored:
        return dict(stored)


def _starts(workdir, level, arm):
    place = workdir / f"level_{level:02d}" / arm / "start"
    members = sorted(path for path in place.iterdir() if path.is_dir())
    return [(_arrays(one / "params.npz"), _arrays(one / "masks.npz")) for one in members]


def test_every_arm_of_every_level_is_there(finished):
    workdir, _, result, said = finished
    assert [(arm["level"], arm["arm"]) for arm in result["arms"]] == [(0, "ticket")] + [
        (level, arm) for level in (1, 2) for arm in ARMS
    ]
    assert all(len(arm["values"]) == len(arm["early_stop"]) == 2 for arm in result["arms"])
    kept = [sum(round(0.5**n * size) for size in (64 * 24, 24 * 10)) / 1776 for n in range(3)]
    for arm in result["arms"]:
        assert arm["sparsity"] == [1 - kept[arm["level"]]] * 2
    for name in ("lottery.png", "masks.png", "connectivity.png"):
        assert (workdir / name).read_bytes().startswith(b"\x89PNG")
    assert "ticket − reinit, paired" in (workdir / "table.md").read_text()
    assert "The ticket against random" in said
    assert json.loads((workdir / "result.json").read_text())["arms"] == result["arms"]
    assert [len(level) for level in result["barriers"]] == [2, 2, 2]
    assert [len(pairs) for pairs in result["overlap_between_seeds"]] == [1, 1, 1]
    assert np.diag(result["overlap_between_levels"]).tolist() == [1.0] * 3
    assert [level["(all)"] for level in result["density_by_layer"]] == kept


def test_tickets_begin_on_the_weights_of_the_step_they_rewind_to(finished):
    workdir = finished[0]
    early = sorted(path for path in (workdir / "step_10").iterdir() if path.name.startswith("seed_"))
    for level in (1, 2):
        for place, (params, masks) in zip(early, _starts(workdir, level, "ticket"), strict=True):
            for name, weights in _arrays(place / "params.npz").items():
                np.testing.assert_array_equal(params[name], np.where(masks[name], weights, 0))
    for (_, before), (_, after) in zip(
        _starts(workdir, 1, "ticket"), _starts(workdir, 2, "ticket"), strict=True
    ):
        assert all((before[name] | ~after[name]).all() for name in before)


def test_rewound_runs_go_through_the_rest_of_the_schedule(finished):
    workdir, study = finished[:2]
    for place in ("step_10", "level_00/ticket/run", "level_01/ticket/run", "level_02/random/run"):
        config = json.loads((workdir / place / "config.json").read_text())
        found = config["schedule_steps"], config["skip_steps"], config["steps"]
        early, first = place.startswith("step"), place.startswith("level_00")
        assert found == (30, 0 if early or first else 10, 10 if early else 30 if first else 20)
    assert study.base.steps == 30
    for path in workdir.rglob("ticket/run/metrics.jsonl"):
        losses = [json.loads(line)["test_loss"] for line in path.read_text().splitlines()]
        assert all(before != after for before, after in itertools.pairwise(losses)), path


def test_controls_keep_what_a_ticket_keeps_of_each_layer(finished):
    workdir = finished[0]
    starts = {arm: _starts(workdir, 2, arm) for arm in ARMS}
    for seed in range(2):
        masks = {arm: starts[arm][seed][1] for arm in ARMS}
        for name, ticket in masks["ticket"].items():
            assert {int(masks[arm][name].sum()) for arm in ARMS} == {int(ticket.sum())}
            np.testing.assert_array_equal(masks["reinit"][name], ticket)
            np.testing.assert_array_equal(masks["random"][name], masks["shuffled"][name])
            if ticket.ndim:
                assert (masks["shuffled"][name] != ticket).any()
                for arm in ARMS:
                    weights = starts[arm][seed][0][name]
                    assert not weights[~masks[arm][name]].any()
                both = ticket & masks["shuffled"][name]
                same = starts["ticket"][seed][0][name] == starts["shuffled"][seed][0][name]
                assert same[both].all()
                assert not (starts["reinit"][seed][0][name] == starts["ticket"][seed][0][name])[ticket].any()


def test_a_finished_study_runs_nothing_and_says_the_same(finished, monkeypatch):
    workdir, study, result, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("params.npz")}
    again, _ = _run(study, workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("params.npz")} == before
    assert again["arms"] == result["arms"]
    assert again["barriers"] == result["barriers"]


@pytest.mark.slow  # of what a disk damaged, the default run sees more
def test_a_level_that_is_lost_is_trained_to_the_same_bytes(finished, tmp_path):
    workdir, study, result, _ = finished
    moved = pathlib.Path(shutil.copytree(workdir, tmp_path / "study"))
    # A copy elsewhere holds runs whose starts are named by the old place: those of level 2 are made anew.
    shutil.rmtree(moved / "level_02")
    for path in moved.rglob("config.json"):
        path.write_text(path.read_text().replace(str(workdir), str(moved)))
    again, _ = _run(study, moved)
    assert again["arms"] == result["arms"]
    for path in (workdir / "level_02" / "ticket" / "run").rglob("params.npz"):
        assert path.read_bytes() == (moved / path.relative_to(workdir)).read_bytes()


def test_what_does_not_fit_together_is_refused(tmp_path, data_dir, finished):
    for changes, words in (
        ({"controls": ("nonsense",)}, "choose among reinit"),
        ({"rewind_step": 30}, "from 0 to below base.steps"),
        ({"keep_weights": True}, "0 with keep_weights"),
        ({"distribution": "erdos"}, "choose uniform or global"),
        ({"base": {"population": 0}}, "dense population"),
        ({"levels": 0}, "levels is 0: give a whole number of at least 1"),
        ({"rewind_step": -1}, "rewind_step is -1"),
        ({"metric": "accuracy"}, "metric is 'accuracy': choose one of test_accuracy"),
        ({"metric": "bits_per_byte", "lower": True}, "choose one of test_accuracy"),
        ({"lower": True}, "lower is True with metric test_accuracy"),
        ({"level": 3}, "differs in level"),
    ):
        with pytest.raises(ConfigError, match=words):
            _run(_study(data_dir, **changes), tmp_path / "refused")
    with pytest.raises(SparsityError, match=r"fraction is 1\.5"):
        _run(_study(data_dir, fraction=1.5), tmp_path / "refused")
    with pytest.raises(ConfigError, match=r"not one of experiments\.lottery"):  # a configuration of one run
        _run(_study(data_dir).base, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    with pytest.raises(WorkdirError, match=r"fraction: 0\.5 there, 0\.25 here"):
        _run(_study(data_dir, fraction=0.25), finished[0])


def _cut(content):
    return content[:-30]


def _flipped(content):
    half = len(content) // 2
    return bytes([*content[:half], content[half] ^ 1, *content[half + 1 :]])


@pytest.mark.parametrize("damage", [_cut, pytest.param(_flipped, marks=pytest.mark.slow)])
def test_what_a_disk_damaged_is_made_again_or_named(finished, tmp_path, data_dir, damage):
    workdir, study, result, _ = finished
    moved = pathlib.Path(shutil.copytree(workdir, tmp_path / "study"))
    for path in moved.rglob("config.json"):
        path.write_text(path.read_text().replace(str(workdir), str(moved)))
    start = next((moved / "level_01" / "random" / "start").iterdir())
    whole = (start / "params.npz").read_bytes()
    (start / "params.npz").write_bytes(damage(whole))
    (moved / "level_01" / "connectivity.json").write_text("[[")
    again, _ = _run(study, moved)
    assert (start / "params.npz").read_bytes() == whole
    assert again["barriers"] == result["barriers"]
    run = moved / "level_00" / "ticket" / "run"
    member = next(path for path in run.iterdir() if path.name.startswith("seed_0"))
    for name, words in (("history.npz", "remove "), ("params.npz", "Or remove ")):
        content = (member / name).read_bytes()
        (member / name).write_bytes(content[:-30])
        with pytest.raises(WorkdirError, match=rf"{name} cannot be read .*{words}{run}"):
            _run(study, moved)
        (member / name).write_bytes(content)
    (run / "result.json").write_text('{"metrics":')
    with pytest.raises(WorkdirError, match=r"result.json cannot be read .* remove it"):
        _run(study, moved)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_is_valid(path):
    study = read_config(path)
    check(study)
    assert study.base.population >= 8
    assert f"python -m experiments.lottery --config=configs/lottery/{path.name}" in path.read_text()
    assert study.title
    assert as_json(study)["lower"] == (study.metric != "test_accuracy")
