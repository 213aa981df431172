"""The benchmark harness: what a row says, what is written, and that the selection benchmark runs."""

import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from experiments.benchmark import __main__ as command
from experiments.benchmark import all as everything
from experiments.benchmark import harness, selection
from sparsejax.selection import top_k_mask


class Scripted:
    """A clock that the cases themselves move on."""

    def __init__(self) -> None:
        self.now = 0.0

    def case(self, *seconds: float):
        """A call that takes the next of `seconds`, over and over."""
        calls = iter(range(10**6))

        def run() -> None:
            self.now += seconds[next(calls) % len(seconds)]

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    scripted = Scripted()
    monkeypatch.setattr(harness.time, "perf_counter", lambda: scripted.now)
    return scripted


def test_ratios_are_of_the_same_round(clock: Scripted) -> None:
    # The warm-up takes the first number of each; then the machine slows both down by the same factor.
    cases = {"base": clock.case(9, 1, 2, 4), "twice": clock.case(9, 2, 4, 8)}
    base, twice = harness.interleaved(cases, "base", repeats=3, min_seconds=0.0)
    assert (base["ratio"], twice["ratio"]) == (1.0, 2.0)
    assert (twice["median_ms"], twice["min_ms"], twice["rounds"]) == (4000.0, 2000.0, 3)
    assert twice["baseline"] == "base"
    assert "compile_ms" not in twice


def test_rounds_go_on_for_the_time_asked(clock: Scripted) -> None:
    rows = harness.interleaved({"a": clock.case(1), "b": clock.case(1)}, "a", repeats=1, min_seconds=9.0)
    assert rows[0]["rounds"] == 5


def test_slow_cases_run_once_and_without_a_warm_up(clock: Scripted) -> None:
    runs = []
    slow = clock.case(10)
    cases = {"base": clock.case(1), "slow": lambda: runs.append(slow())}
    rows = harness.interleaved(cases, "base", repeats=4, min_seconds=0.0, once=["slow"])
    assert len(runs) == rows[1]["rounds"] == 1
    assert rows[1]["ratio"] == 10.0


@pytest.mark.parametrize(("baseline", "once"), [("c", []), ("a", ["c"]), ("a", ["a"])])
def test_unknown_cases_are_refused(baseline: str, once: list[str]) -> None:
    with pytest.raises(ValueError, match="must name cases"):
        harness.interleaved({"a": int, "b": int}, baseline, once=once)


def test_compilation_is_timed_apart() -> None:
    case = harness.Jitted(lambda x, n: x * n, jnp.ones(3), 4, static_argnums=1)
    row = harness.interleaved({"a": case}, "a", repeats=1, min_seconds=0.0)[0]
    assert case().tolist() == [4, 4, 4]
    assert row["compile_ms"] > 0


ROWS = [
    {"benchmark": "one", "note": "n", "case": "a", "ratio": 1.0, "median_ms": 12345.678},
    {"benchmark": "two", "case": "b|c", "ratio": 0.12345, "device": "d"},
]


def test_tables_put_each_benchmark_apart() -> None:
    plain = harness.table(ROWS).splitlines()
    assert plain[0] == "one"
    assert plain[1].split() == ["case", "median_ms", "ratio", "note"]
    assert plain[3].split() == ["a", "12345.678", "1", "n"]
    text = harness.markdown(ROWS)
    assert "### two\n\n| case | ratio |\n| --- | --- |\n| b\\|c | 0.1235 |\n" in text


def test_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "rows.json"
    harness.write_json(str(path), ROWS)
    assert json.loads(path.read_text()) == ROWS

    def fail(*_: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(harness.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        harness.write_json(str(path), [])
    assert json.loads(path.read_text()) == ROWS
    assert [entry.name for entry in path.parent.iterdir()] == ["rows.json"]


def test_an_unknown_name_lists_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["selektion"])
    assert stop.value.code == 2
    assert f"no benchmark 'selektion'; there are: {', '.join(command.names())}" in capsys.readouterr().err
    assert {"all", "selection"} <= set(command.names())
    assert not {"harness", "__main__"} & set(command.names())
    assert all(command.describe(name) for name in command.names())


def test_the_command_writes_rows_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(selection, "run", lambda quick: [{"case": "a", "ratio": 1.0, "quick": quick}])
    paths = [str(tmp_path / name) for name in ("rows.json", "rows.md")]
    assert command.main(["selection", "--quick", "--json", paths[0], "--markdown", paths[1]]) == 0
    row = json.loads(Path(paths[0]).read_text())[0]
    assert (row["benchmark"], row["case"], row["quick"]) == ("selection", "a", True)
    assert {"device", "versions", "date"} <= set(row)
    assert row["versions"]["jax"] in Path(paths[1]).read_text()
    assert "selection" in capsys.readouterr().out


@pytest.fixture
def only_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "names", lambda: ["all", "selection"])


@pytest.mark.usefixtures("only_selection")
def test_all_checks_first_and_survives_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(quick: bool) -> list[str]:
        raise RuntimeError(f"quick={quick}: wrong")

    monkeypatch.setattr(selection, "check", broken)
    monkeypatch.setattr(selection, "run", lambda quick: [{"case": "a"}])
    rows = everything.run(True)
    assert rows[0] == {"benchmark": "check", "case": "selection", "error": "RuntimeError: quick=True: wrong"}
    assert rows[1] == {"benchmark": "selection", "case": "a"}


def test_the_selection_benchmark_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_QUICK_SIZES", (3000,))
    rows = selection.run(quick=True)
    ours = [row for row in rows if row["case"] == "top_k_mask"]
    assert [row["distribution"] for row in ours[1:]] == ["normal", "lognormal", "90 % zeros", "5 values"]
    assert all(row["ratio"] > 0 and row["baseline"] == "np.partition" for row in ours)
    assert all("speedup_over_sort" in row for row in ours[1:])
    assert len(list(selection.check(quick=True))) == 4


def test_the_check_sees_a_wrong_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_QUICK_SIZES", (3000,))
    monkeypatch.setattr(selection, "top_k_mask", lambda scores, k: ~top_k_mask(scores, k))
    with pytest.raises(RuntimeError, match="normal scores"):
        list(selection.check(quick=True))
