"""A live bar on a terminal, a handful of lines in a log file."""

import io

import pytest
from rich.console import Console

from experiments.record.progress import LINES, ProgressBar


def _report(console, steps=200, chunk=10):
    with ProgressBar(steps, console) as bar:
        for done in range(chunk, steps + 1, chunk):
            bar.update(done, loss=0.5, accuracy=0.875, sparsity=0.95)


def test_lines_without_a_terminal():
    out = io.StringIO()
    _report(Console(file=out, soft_wrap=True))
    lines = out.getvalue().splitlines()
    assert len(lines) == LINES
    assert lines[0].startswith("step 20/200 · loss 0.500 · test accuracy 0.8750 · sparsity 0.9500")
    assert "steps/s" in lines[1]
    assert "s left" in lines[1]
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
    assert "loss 0.500 · 2.500 bits per byte · test accuracy 0.8750" in out.getvalue()


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
