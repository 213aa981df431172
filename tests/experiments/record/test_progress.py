"""A live bar on a terminal, a handful of lines in a log file."""

import io
import re

import pytest
from rich.console import Console

from experiments.record import progress
from experiments.record.progress import LINES, Overall, ProgressBar, duration, speed


def _report(console, steps=200, chunk=10):
    with ProgressBar(steps, console) as bar:
        for done in range(chunk, steps + 1, chunk):
            bar.update(done, loss=0.5, accuracy=0.875, sparsity=0.95)


def test_lines_without_a_terminal():
    out = io.StringIO()
    _report(Console(file=out, soft_wrap=True))
    lines = out.getvalue().splitlines()
    assert lines.pop(0).startswith("compiling")
    assert len(lines) == LINES
    assert lines[0].startswith("step 20/200 · 1 s left · accuracy 0.8750 · loss 0.500 · sparsity 0.9500")
    assert lines[1].startswith("step 40/200 · 1 s left · ")
    assert "steps/s" in lines[-1]
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("step 200/200")
    assert "left" not in lines[-1]


@pytest.mark.parametrize(("steps", "chunk"), [(7, 7), (10, 3), (3, 1)])
def test_the_last_step_is_always_reported(steps, chunk):
    out = io.StringIO()
    with ProgressBar(steps, Console(file=out, soft_wrap=True)) as bar:
        for done in [*range(chunk, steps, chunk), steps]:
            bar.update(done, loss=1.0, accuracy=0.0, sparsity=0.0)
    assert f"step {steps}/{steps}" in out.getvalue().splitlines()[-1]


def test_a_text_run_shows_bits_per_byte():
    out = io.StringIO()
    with ProgressBar(10, Console(file=out, soft_wrap=True)) as bar:
        bar.update(10, loss=0.5, accuracy=0.875, sparsity=0.95, bits_per_byte=2.5)
    assert "2.500 bits per byte · accuracy 0.8750 · loss 0.500" in out.getvalue()


def test_a_bar_on_a_terminal():
    out = io.StringIO()
    _report(Console(file=out, force_terminal=True, width=140))
    text = out.getvalue()
    assert "━" in text
    assert "200/200" in text
    assert "accuracy 0.8750" in text


def test_the_bar_is_cleared_away_when_training_fails():
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    with pytest.raises(RuntimeError, match="broken"), ProgressBar(10, console) as bar:
        raise RuntimeError("broken")
    assert bar.bar.finished or not bar.bar.live.is_started


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (100, "step 900/1000 · 2 min left · accuracy 0.8750 · loss 0.500 · sparsity 0.9500"),
        (80, "step 900/1000 · 2 min left · accuracy 0.8750 · loss 0.500"),
        (40, "step 900/1000 · 2 min left"),
        (24, "step 900/1000"),
    ],
)
def test_in_a_narrow_terminal_steps_and_time_left_go_last(width, shown, monkeypatch):
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(clock)))
    out = io.StringIO()
    with ProgressBar(1000, Console(file=out, force_terminal=True, width=width)) as bar:
        for done in range(100, 1000, 100):
            bar.update(done, loss=0.5, accuracy=0.875, sparsity=0.95)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|━|╸|╺", "", out.getvalue()).split("\r")[-1]
    assert last.strip() == shown


def _two_runs(console, seconds):
    with Overall(2, console, "level") as overall:
        for name in ("dense", "ticket"):
            with overall.part(name) as bar, bar(100) as inner:
                for done in (50, 100):
                    seconds()
                    inner.update(done, loss=0.5, accuracy=0.25, sparsity=0.0)


def test_a_command_of_many_runs_tells_which_one_and_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])

    def half_a_minute():
        now[0] += 40.0

    out = io.StringIO()
    _two_runs(Console(file=out, width=80), half_a_minute)
    assert out.getvalue().splitlines() == [
        "level 1/2 · dense",
        "level 1/2 · 2 min left · dense · step 50/100 · accuracy 0.2500",
        "level 1/2 · 80 s left · dense · step 100/100 · accuracy 0.2500",
        "level 2/2 · 80 s left · ticket",
        "level 2/2 · 40 s left · ticket · step 50/100 · accuracy 0.2500",
        "level 2/2 · ticket · step 100/100 · accuracy 0.2500",
    ]
    out = io.StringIO()
    _two_runs(Console(file=out, force_terminal=True, width=80), half_a_minute)
    assert "━" in out.getvalue()
    assert "level 2/2 · ticket · step 100/100" in out.getvalue()


def test_runs_that_were_finished_before_do_not_shorten_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    out = io.StringIO()
    with Overall(4, Console(file=out, width=80)) as overall:
        for name in ("stored", "stored too"):
            with overall.part(name):
                now[0] += 0.01
        with overall.part("trained"):
            now[0] += 60.0
        with overall.part("last"):
            pass
    assert out.getvalue().splitlines()[-1] == "run 4/4 · 60 s left · last"


def test_durations():
    assert [duration(x) for x in (0.2, 99.0, 101.0, 5_999.0, 6_000.0)] == [
        "1 s",
        "99 s",
        "2 min",
        "1 h 40",
        "1 h 40",
    ]


def test_a_slow_run_does_not_take_zero_steps_a_second():
    assert (speed(0.359), speed(9.999), speed(693.2)) == ("0.36 steps/s", "10.00 steps/s", "693 steps/s")
