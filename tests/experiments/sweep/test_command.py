"""Sweeps of real runs: every configuration once, killed ones from their checkpoint, wrong ones not again."""

import io
import json
import runpy

import pytest
from rich.console import Console

from experiments.config.fields import default_config
from experiments.errors import ConfigError
from experiments.record.outcome import as_json
from experiments.report.gathering import gather
from experiments.sweep import command as sweep
from experiments.sweep import table as sweep_table
from experiments.sweep.engines import Ended
from tests.experiments import jobs, killing

_SWEEP = """
from experiments.config.fields import default_config
from tests.experiments.killing import make_config

def get_sweep():
    for seed in (0, 1, 0):
        yield make_config({data_dir!r}, "static", seed=seed, steps=100)
    yield make_config({data_dir!r}, "static", dataset="no_such_set")
"""


def _file(tmp_path, text):
    path = tmp_path / "sweep_file.py"
    path.write_text(text)
    return str(path)


def _sweep(path, root, engine="local", **changes):
    out = io.StringIO()
    status = sweep.sweep(path, engine, jobs.options(root, **changes), Console(file=out, width=200))
    return status, out.getvalue()


def _sweep_and_kill(tmp_path, data_dir, engine, whom):
    """Runs the sweep, kills a process of its first run after a checkpoint, and checks that all is as it should be."""
    path, root = _file(tmp_path, _SWEEP.format(data_dir=data_dir)), tmp_path / "runs"
    runs = [sweep.prepare(config, root) for config in sweep.read_sweep(path)]
    first, second, _, wrong = runs
    killed = jobs.on_the_way(
        lambda: killing.saved_steps(first.workdir), lambda: jobs.kill(whom(jobs.process_of(first.workdir)))
    )
    status, said = _sweep(path, root, engine)
    killed()
    assert status == 1
    assert "3 runs, 0 of them finished before" in said  # the same configuration twice is one run
    assert f"{second.name}: finished (" in said
    assert f"{wrong.name}: ended with status 2, see its log" in said
    assert "Unknown data set 'no_such_set'" in (root / "logs" / f"{wrong.name}.log").read_text()
    assert (root / "logs" / f"{wrong.name}.log").read_text().count("DatasetError") == 1
    for run in (first, second):
        assert json.loads((run.workdir / "result.json").read_text())["config"] == run.config
        rows = [json.loads(line)["step"] for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
        assert rows == list(range(10, 101, 10))
    return path, root, runs, said


def test_a_sweep_runs_everything_once_and_goes_on_after_a_kill(tmp_path, data_dir):
    path, root, (first, _, _, wrong), said = _sweep_and_kill(tmp_path, data_dir, "local", lambda pid: pid)
    assert f"{first.name}: finished, started 2 times" in said
    assert "going on from the checkpoint of step" in (root / "logs" / f"{first.name}.log").read_text()
    before = {one: one.stat().st_mtime_ns for one in root.rglob("result.json")}
    logs = {one: one.stat().st_size for one in (root / "logs").glob("*.log") if one.stem != wrong.name}
    status, said = _sweep(path, root)
    assert status == 1
    assert "3 runs, 2 of them finished before" in said
    assert {one: one.stat().st_mtime_ns for one in root.rglob("result.json")} == before
    assert {one: one.stat().st_size for one in logs} == logs
    found = {run.path.name: run.status for run in gather([root])}
    assert sorted(found.values()) == ["failed", "finished", "finished"]
    assert found[wrong.name] == "failed"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("engine", ["ray", "slurm"])
def test_clusters_go_on_after_their_worker_is_killed(tmp_path, data_dir, engine, monkeypatch):
    pytest.importorskip({"ray": "ray", "slurm": "submitit"}[engine])
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by Ray's default: beside other work it gets nowhere
    # Ray's worker dies and leaves the run behind; of SLURM's job the run itself is killed.
    _sweep_and_kill(tmp_path, data_dir, engine, jobs.parent_of if engine == "ray" else lambda pid: pid)


def test_what_cannot_be_swept_is_refused_before_anything_runs(tmp_path, capsys):
    root = tmp_path / "runs"
    for text, words in (
        ("x = 1\n", "has no get_sweep"),
        ("def get_sweep():\n    return []\n", "yields no configuration"),
        ("from experiments.config.fields import default_config\ndef get_sweep():\n    c = default_config()\n"
         "    c.steps = 0\n    yield c\n", "steps"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            _sweep(_file(tmp_path, text), root)
    good = _file(
        tmp_path,
        "from experiments.config.fields import default_config\nget_sweep = lambda: [default_config()]\n",
    )
    with pytest.raises(ConfigError, match="no engine 'cloud': choose one of local, ray, slurm"):
        _sweep(good, root, "cloud")
    with pytest.raises(ConfigError, match="needs workers"):
        _sweep(good, root, workers=0)
    assert sweep.main(["--sweep=absent.py", f"--workdir={root}"]) == 2
    assert "ConfigError: There is no sweep file absent.py" in capsys.readouterr().err
    assert not root.exists()


def test_a_result_that_is_broken_is_not_a_finished_run(tmp_path):
    run = sweep.prepare(default_config(), tmp_path)
    run.workdir.mkdir()
    assert not run.is_finished
    for broken in ('{"metrics":', "[]", ""):
        (run.workdir / "result.json").write_text(broken)
        assert not run.is_finished
    (run.workdir / "result.json").write_text("{}")
    assert run.is_finished


def test_a_run_is_named_by_its_configuration(tmp_path):
    config = default_config()
    names = [sweep.prepare(config, tmp_path).name]
    config.seed = 1
    names.append(sweep.prepare(config, tmp_path).name)
    config.seed = 0
    names.append(sweep.prepare(config, tmp_path).name)
    assert names[0] == names[2] != names[1]


def test_the_configuration_comes_back_from_its_file(tmp_path):
    from_json = runpy.run_path(str(sweep._FROM_JSON))["get_config"]
    for model in ("mlp", "lenet", "resnet", "gpt"):
        config = default_config(model)
        config.sparsities, config.population, config.learning_rate, config.method = (0.9, 0.95), 2, 1, "set"
        run = sweep.prepare(config, tmp_path)
        sweep.begin(run)
        read = from_json(str(tmp_path / "sweep_runs" / f"{run.name}.json"))
        assert as_json(read) == run.config
        assert sweep.prepare(read, tmp_path).name == run.name


def test_a_terminal_gets_a_table_and_a_file_gets_lines(tmp_path):
    config = default_config()
    run = sweep.prepare(config, tmp_path)
    sweep.begin(run)
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=120, highlight=False)
        with sweep_table.watch([run.workdir], console) as show:
            show(Ended(run.name, -9, 3))
        assert (
            f"{run.name}: ended with status -9, see its log, started 3 times (0 of 1 finished)"
            in out.getvalue()
        )
        assert ("waiting" in out.getvalue()) == terminal
    run.workdir.mkdir()
    (run.workdir / "config.json").write_text(json.dumps(run.config))
    (run.workdir / "metrics.jsonl").write_text('{"step": 100, "test_accuracy": 0.25, "test_loss": 2.0}\n')
    console = Console(file=io.StringIO(), width=120)
    console.print(sweep_table.overview([run.workdir]))
    shown = console.file.getvalue()
    assert all(words in shown for words in ("begun", "100/5000", "0.2500", "0 of 1 finished"))


def _stored_run(place, step, finished, *, seed=0):
    """The files of a run that stands at `step`."""
    config = as_json(default_config()) | {"seed": seed}
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(config))
    (place / "metrics.jsonl").write_text(
        json.dumps({"step": step, "test_accuracy": 0.25, "test_loss": 2.0}) + "\n"
    )
    if finished:
        metrics = {"test_accuracy": 0.5, "test_loss": 1.0}
        result = {"config": config, "steps": 5000, "metrics": metrics, "sparsity": 0.0}
        (place / "result.json").write_text(json.dumps(result))
    return place


def _shown(places, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(sweep_table.overview(places, width, ", 3 min left"))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def test_rows_keep_their_places_and_the_steps_stay_in_a_narrow_terminal(tmp_path):
    places = [_stored_run(tmp_path / f"run_{i:02d}", 100 * i, finished=i in (1, 3), seed=i) for i in range(5)]
    for width in (120, 80, 30):
        lines = _shown(places, width)
        assert [line.split()[0] for line in lines[1:6]] == [place.name for place in places]
        assert "400/5000" in lines[5]
        assert "2 of 5 finished, 3 min left" in lines[-1]
    assert "0.2500" in _shown(places, 80)[1]
    assert "0.2500" not in _shown(places, 30)[1]


def test_of_many_runs_the_finished_ones_at_the_top_make_room(tmp_path):
    places = [_stored_run(tmp_path / f"run_{i:02d}", 10, finished=i < 8) for i in range(35)]
    lines = _shown(places, 80)
    assert lines[1].split()[0] == "run_05"
    assert "5 finished above; 8 of 35 finished" in lines[-1]
