"""The line that a benchmark draws on a terminal."""

import io

from experiments.benchmark.bar import Line
from experiments.benchmark.harness import _progress, interleaved


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_one_line_that_is_wiped_and_a_file_nothing():
    for stream, drawn in ((Terminal(), True), (io.StringIO(), False)):
        with Line(stream) as line:
            line.show("compiling 1/2 · " + "x" * 100)
            line.show("round 1/9", often=True)  # too soon after the one before
        text = stream.getvalue()
        assert ("compiling 1/2" in text) == drawn
        assert "round" not in text
        if drawn:
            assert text.endswith("\r\x1b[2K")
            assert max(map(len, text.replace("\x1b[2K", "").split("\r"))) <= 79


def test_rounds_and_time_left(monkeypatch):
    monkeypatch.setattr("experiments.benchmark.harness.time.perf_counter", lambda: 10.0)
    assert _progress(0, 9, 10.0, 0.5, "a") == "round 1/9 · a"
    assert _progress(5, 10, 0.0, 0.5, "a") == "round 6/10 · 10 s left · a"
    assert _progress(12, 10, 8.0, 5.0, "a") == "round 13/13 · 3 s left · a"


def test_the_rounds_are_counted_as_before():
    rows = interleaved({"a": lambda: 1, "b": lambda: 2}, "a", repeats=3, min_seconds=0.0)
    assert [row["rounds"] for row in rows] == [3, 3]
