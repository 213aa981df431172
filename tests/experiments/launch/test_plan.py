"""A plan is what its script says: the same files, the same commands, the same end."""

import subprocess

import pytest

from experiments.errors import LaunchError
from experiments.launch.plan import Plan, carry_out, script


def _plan(folder):
    text = "one 'quoted' $HOME\nline: `two`\n"
    copy = ("cp", str(folder / "a b.txt"), str(folder / "copy"))
    return Plan((copy, ("false",), ("touch", str(folder / "never"))), ((str(folder / "a b.txt"), text),))


@pytest.mark.parametrize("how", ["carried out", "script"])
def test_both_ways_leave_the_same(tmp_path, how):
    plan = _plan(tmp_path)
    status = (
        carry_out(plan) if how == "carried out" else subprocess.run(["bash", "-c", script(plan)]).returncode
    )
    assert status == 1
    assert (tmp_path / "copy").read_text() == plan.files[0][1]
    assert not (tmp_path / "never").exists()


def test_what_comes_afterwards_is_shown_and_not_run(tmp_path):
    plan = Plan((("true",),), afterwards=(("touch", str(tmp_path / "no")),))
    assert carry_out(plan) == 0
    assert subprocess.run(["bash", "-c", script(plan)]).returncode == 0
    assert "# afterwards: touch" in script(plan)
    assert not (tmp_path / "no").exists()


def test_a_program_that_is_not_there_and_a_file_that_cannot_be(tmp_path):
    with pytest.raises(LaunchError, match="'no-such-launcher' cannot be run here"):
        carry_out(Plan((("no-such-launcher",),)))
    with pytest.raises(LaunchError, match="cannot be written"):
        carry_out(Plan((), ((str(tmp_path / "absent" / "file"), ""),)))
