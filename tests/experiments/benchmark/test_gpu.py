"""The parts of `make gpu`: rows that survive a kill, resuming, budgets, errors as rows, one table."""

import json

from experiments.benchmark import gpu


def _case(name, seen, rows=None):
    def work():
        seen.append(name)
        return [{"case": name, "ratio": 1.0}] if rows is None else rows

    return "b", name, work


def test_what_is_there_is_not_run_again_and_what_was_cut_off_is(tmp_path):
    path, seen = tmp_path / "part-1.jsonl", []
    assert gpu.run_part(path, iter([_case("a", seen), _case("c", seen)]), 60.0)
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{second[:-9]}")  # a kill cut the last line
    assert gpu.run_part(path, iter([_case("a", seen), _case("c", seen)]), 60.0)
    assert seen == ["a", "c", "c"]
    assert [json.loads(line)["case"] for line in path.read_text().splitlines()] == ["a", "c"]


def test_a_budget_stops_before_a_case_and_the_next_call_goes_on(tmp_path):
    path, seen = tmp_path / "part-1.jsonl", []
    assert not gpu.run_part(path, iter([_case("a", seen)]), -1.0)
    assert seen == []
    assert gpu.run_part(path, iter([_case("a", seen)]), 60.0)
    assert seen == ["a"]


def test_a_failure_is_a_row_and_is_replaced_when_it_is_run_again(tmp_path):
    def broken():
        raise RuntimeError("wrong")

    path, seen = tmp_path / "part-1.jsonl", []
    assert gpu.run_part(path, iter([("b", "a", broken), _case("c", seen)]), 60.0)
    assert [row.get("error") for row in gpu.read_rows(tmp_path)] == ["RuntimeError: wrong", None]
    assert gpu.main([str(tmp_path), "--part", "table"]) == 1
    gpu.run_part(path, iter([_case("a", seen), _case("c", seen)]), 60.0)
    assert seen == ["c", "a"]
    assert [row.get("error") for row in gpu.read_rows(tmp_path)] == [None, None]
    assert gpu.main([str(tmp_path), "--part", "table"]) == 0
    text = (tmp_path / "gpu.md").read_text()
    assert "jax " in text.splitlines()[0]
    assert "| case | ratio |" in text


def test_every_part_has_its_cases():
    for part in gpu.PARTS:
        names = [(benchmark, name) for benchmark, name, _ in gpu.cases(part, False)]
        assert len(set(names)) == len(names) > 5
