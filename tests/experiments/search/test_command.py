"""The study of searchers on the digits: one table at equal evaluations, killed in the middle of a search, bad input."""

import io
import json

import pytest
from rich.console import Console

from experiments.config.fields import default_config
from experiments.errors import ConfigError
from experiments.search import command
from experiments.search.options import default_search, validate_search
from experiments.search.report import compare
from sparsejax.errors import SearchError
from sparsejax.search import journal

SEARCHERS = ("uniform", "random", "allocation", "evopress", "netadapt", "amc")


class Killed(BaseException):
    """Ends a study as a kill does."""


def _options(data_dir):
    base = default_config("mlp")
    base.data_dir, base.steps, base.eval_every, base.checkpoint_every = data_dir, 20, 20, 0
    base.model.widths = (12, 10, 8)
    options = default_search(base)
    options.seeds, options.batches, options.evaluations, options.searchers = 2, 2, 24, SEARCHERS
    options.kinds, options.levels, options.population = ("neuron",), (0.0, 0.25, 0.5, 0.75), 8
    return options


def _run(options, workdir):
    out = io.StringIO()
    return command.run(options, str(workdir), Console(file=out, width=200)), out.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """Killed after every hundred and thirtieth evaluation, and taken up each time."""
    options, workdir = _options(data_dir), tmp_path_factory.mktemp("study") / "run"
    count, real, kills = [0], journal.Journal.add, 0

    def add(self, records):
        real(self, records)
        before, count[0] = count[0], count[0] + len(records)
        if before // 130 < count[0] // 130:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.Journal, "add", add)
        for _ in range(40):
            try:
                return options, workdir, *_run(options, workdir), kills
            except Killed:
                kills += 1
    raise AssertionError("killed too often")


def test_all_searchers_have_equal_evaluations_and_the_same_budget(finished):
    _, workdir, result, out, kills = finished
    assert kills >= 2
    assert json.loads((workdir / "result.json").read_text()) == result
    assert tuple(result["searchers"]) == SEARCHERS
    for rows in result["searchers"].values():
        assert len(rows) == 2
        assert all(row["evaluations"] <= 24 and row["cost"] <= row["at_most"] * (1 + 1e-6) for row in rows)
    assert result["sites"] == 3
    assert result["levels"] == 12
    assert "3 independent choices" in out
    assert "early" in (workdir / "summary.txt").read_text()
    assert (workdir / "seed_0" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(result["comparisons"]) == 2 * (len(SEARCHERS) - 1)


def test_killed_searches_found_what_unbroken_ones_find(finished, tmp_path, monkeypatch):
    options, workdir, result, *_ = finished
    for name in ("evopress", "amc"):
        lines = [json.loads(x) for x in (workdir / "seed_1" / name / "search.jsonl").read_text().splitlines()]
        best = min(
            row["loss"] for row in lines[1:] if row.get("share", 1.0) == 1.0 and row["loss"] is not None
        )
        assert result["searchers"][name][1]["loss"] == best
    monkeypatch.setattr(command, "_seed", None)
    assert _run(options, workdir)[0] == result


def test_ordering_of_paired_losses():
    rows = {"a": [{"held_out": 1.0}, {"held_out": 1.2}], "random": [{"held_out": 1.5}, {"held_out": 1.1}]}
    found = compare(rows, ["uniform", "random"])
    assert [(row["better"], row["worse"], row["verdict"]) for row in found] == [
        ("a", "random", "not told apart")
    ]
    assert found[0]["gain"] == pytest.approx(0.2)
    one = compare({name: row[:1] for name, row in rows.items()}, ["random"])
    assert one[0]["half_width"] is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("searchers", ("evolve",), "config.searchers is"),
        ("searchers", (), "one or several, each once"),
        ("evaluations", 0, "config.evaluations is 0"),
        ("share", 0.0, "the share that stays"),
        ("what", "layers", "config.what is 'layers'"),
        ("levels", (0.5, 1.5), "config.levels is"),
    ],
)
def test_bad_input(name, value, message):
    options = default_search(default_config())
    options[name] = value
    with pytest.raises(ConfigError, match=message):
        validate_search(options)


def test_a_budget_out_of_reach(data_dir, tmp_path):
    options = _options(data_dir)
    options.share, options.levels = 0.05, (0.0, 0.25)
    with pytest.raises(SearchError, match="cannot be met: the whole model has"):
        _run(options, tmp_path / "run")


def test_a_searcher_that_refuses_is_named_and_the_others_are_compared(data_dir, tmp_path):
    options = _options(data_dir)
    options.seeds, options.evaluations, options.searchers = 1, 4, ("uniform", "random", "allocation")
    result, out = _run(options, tmp_path / "run")
    assert set(result["searchers"]) == {"uniform", "random"}
    assert "4 evaluations do not measure" in result["refused"]["allocation"]
    assert "allocation refused: 4 evaluations do not measure" in out
    assert {row["worse"] for row in result["comparisons"]} == {"uniform", "random"}
