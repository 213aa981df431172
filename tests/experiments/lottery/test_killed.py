"""A lottery study whose whole process is killed, anywhere: it goes on where it was, to the bytes of an unbroken one."""

import copy
import io
import pathlib

import pytest
from ml_collections import ConfigDict
from rich.console import Console

from experiments.lottery import command as lottery
from tests.configurations import read_config
from tests.experiments import killing

_CONFIG = pathlib.Path(__file__).parents[3] / "configs" / "lottery" / "digits_mlp.py"

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # see test_resume
]


def _study(data_dir):
    """Two seeds, one round, rewound to step 10 of 40, a checkpoint every 10."""
    study = copy.deepcopy(read_config(_CONFIG)).unlock()
    fields = {"population": 2, "steps": 40, "eval_every": 10, "checkpoint_every": 10, "data_dir": data_dir}
    study.base.update(ConfigDict(fields))
    study.base.model.widths = (24,)
    study.levels, study.fraction, study.rewind_step, study.controls = 1, 0.5, 10, ("random",)
    return study


def _finished(workdir):
    return {path: path.stat().st_mtime_ns for path in workdir.rglob("result.json")}


def _first_line(run):
    return (run / "metrics.jsonl").read_text().splitlines()[0]


def test_a_study_killed_in_a_save_between_levels_and_in_a_level_ends_with_the_same_bytes(tmp_path, data_dir):
    study, root = _study(data_dir), tmp_path / "study"
    dense, ticket = root / "level_00" / "ticket" / "run", root / "level_01" / "ticket" / "run"
    moments = {
        "in the middle of a save": lambda: killing.unfinished_saves(dense),
        "between levels": lambda: (dense / "result.json").exists(),
        "in the middle of a level": lambda: killing.saved_steps(ticket),
    }
    seen = {}
    for words, moment in moments.items():
        process = killing.start_lottery(study, root)
        killing.wait_until(moment, process)
        assert killing.kill(process), f"{words}: {root.with_suffix('.log').read_text()}"
        assert {path: when for path, when in _finished(root).items() if path in seen} == seen, words
        seen |= _finished(root)
    assert not (ticket / "result.json").exists()
    assert killing.saved_steps(ticket)
    begun = _first_line(ticket)
    result = lottery.run(study, str(root), Console(file=io.StringIO()))
    assert {path: when for path, when in _finished(root).items() if path in seen} == seen
    # The row before the checkpoint, with the steps a second that it had, is that of the process that was killed.
    assert _first_line(ticket) == begun

    whole = tmp_path / "whole"
    unbroken = lottery.run(study, str(whole), Console(file=io.StringIO()))
    for name in ("arms", "ticket_against_controls", "overlap_between_seeds", "density_by_layer"):
        assert result[name] == unbroken[name], name
    arrays = sorted(path.relative_to(whole) for path in whole.rglob("*.npz") if "records" not in path.parts)
    assert len([path for path in arrays if path.name == "params.npz"]) == 2 * (1 + 2 + 2 + 2)
    for path in arrays:
        assert (root / path).read_bytes() == (whole / path).read_bytes(), path
