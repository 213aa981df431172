"""A working directory belongs to one configuration and one process."""

import os
import stat

import pytest

from experiments.errors import DatasetError, TrainingError, WorkdirError
from experiments.record.workdir import claim, differences, stored_result

CONFIG = {"seed": 0, "model": {"widths": [300, 100]}}


def test_claim_writes_the_config_and_may_be_repeated(tmp_path):
    for _ in range(2):
        with claim(tmp_path / "new" / "run", CONFIG) as path:
            assert stored_result(path) is None
            assert (path / "config.json").is_file()


def test_another_configuration_is_named(tmp_path):
    with claim(tmp_path, CONFIG):
        pass
    other = {"seed": 3, "model": {"widths": [8]}}
    with (
        pytest.raises(
            WorkdirError, match=r"model.widths: \[300, 100\] there, \[8\] here; seed: 0 there, 3 here"
        ),
        claim(tmp_path, other),
    ):
        pass


def test_times_that_follow_the_steps_are_not_listed(tmp_path):
    with claim(tmp_path, {"steps": 300, "end_step": 225, "warmup_steps": 15, "update_every": 100}):
        pass
    other = {"steps": 200, "end_step": 150, "warmup_steps": 10, "update_every": 50}
    with (
        pytest.raises(
            WorkdirError, match=r"configuration; steps: 300 there, 200 here; update_every: 100 there, 50"
        ),
        claim(tmp_path, other),
    ):
        pass


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with (
        pytest.raises(WorkdirError, match=r"something else than a run \(thesis.tex\)"),
        claim(tmp_path, CONFIG),
    ):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_result_without_its_config_still_guards(tmp_path):
    (tmp_path / "result.json").write_text('{"config": {"seed": 7}}')
    with pytest.raises(WorkdirError, match="seed: 7 there, 0 here"), claim(tmp_path, {"seed": 0}):
        pass


def test_tuples_and_lists_are_the_same_configuration(tmp_path):
    for widths in ((300, 100), [300, 100]):
        with claim(tmp_path, {"widths": widths}):
            pass


def test_two_processes_at_once(tmp_path):
    with (
        claim(tmp_path, CONFIG),
        pytest.raises(WorkdirError, match="Another process"),
        claim(tmp_path, CONFIG),
    ):
        pass


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WorkdirError, match=r"cannot be written.*--workdir"),
        claim(tmp_path / "file" / "run", CONFIG),
    ):
        pass


def test_read_only(tmp_path):
    directory = tmp_path
    directory.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(directory, os.W_OK):  # root writes everywhere but to the kernel's own files
        directory = "/proc/sparsejax"
    with pytest.raises(WorkdirError, match="cannot be written"), claim(directory, CONFIG):
        pass


def test_a_file_that_is_no_json(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(WorkdirError, match="cannot be read"), claim(tmp_path, CONFIG):
        pass


def test_leftovers_of_a_killed_process_go(tmp_path):
    (tmp_path / ".result.json.123.tmp").write_text("{")
    with claim(tmp_path, CONFIG) as path:
        assert sorted(entry.name for entry in path.iterdir()) == [".lock", "config.json"]


def test_fields_on_one_side_only():
    assert differences({"a": 1}, {"b": 2}) == ["a: 1 there, absent here", "b: absent there, 2 here"]


def test_a_run_refused_before_its_first_step_claims_nothing(tmp_path):
    with pytest.raises(DatasetError), claim(tmp_path, {"seed": 0}):
        raise DatasetError("not prepared")
    with claim(tmp_path, {"seed": 1}):  # another configuration may come
        (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(WorkdirError, match="seed: 1 there, 0 here"), claim(tmp_path, {"seed": 0}):
        pass


def test_a_run_that_broke_down_keeps_its_claim(tmp_path):
    def break_down():
        with claim(tmp_path, {"seed": 0}) as path:
            (path / "metrics.jsonl").write_text("{}\n")
            raise TrainingError("the loss is nan")

    with pytest.raises(TrainingError):
        break_down()
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize("directory", ["", "runs/a\0b"])
def test_a_name_of_no_directory(directory):
    with pytest.raises(WorkdirError, match="names no directory"), claim(directory, CONFIG):
        pass


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(WorkdirError, match="it holds a list"), claim(tmp_path, CONFIG):
        pass
