"""The parts of `make gpu`: rows that survive a kill, resuming, budgets, errors as rows, one table."""

import json
import subprocess
import sys

import pytest

from experiments.benchmark import gpu, gpu_training, kernels_gpu, selection
from sparsejax.kernels import mosaic_gpu


def _case(name, seen):
    def work():
        seen.append(name)
        return [{"case": name, "ratio": 1.0}]

    return "b", name, work


def _broken(seen):
    def work():
        seen.append("broken")
        yield {"case": "half", "ratio": 2.0}
        raise RuntimeError("wrong\nin many lines")

    return "b", "a", work


def _names(path):
    return [row["case"] for row in map(json.loads, path.read_text().splitlines()) if "case" in row]


def test_what_is_there_is_not_run_again_and_what_was_cut_off_is(tmp_path):
    path, seen = tmp_path / "part-1.jsonl", []
    assert gpu.run_part(path, iter([_case("a", seen), _case("c", seen)]), 60.0)
    *whole, last = path.read_text().splitlines()
    path.write_text("\n".join(whole) + f"\n{last[:-9]}")  # a kill cut the line that says that "c" is done
    assert [row["case"] for row in gpu.read_rows(tmp_path)] == ["a", "c"]  # its row was measured
    assert gpu.run_part(path, iter([_case("a", seen), _case("c", seen)]), 60.0)
    assert seen == ["a", "c", "c"]
    assert _names(path) == ["a", "c", "c"]
    assert [row["case"] for row in gpu.read_rows(tmp_path)] == ["a", "c"]


def test_a_row_is_in_the_file_when_the_next_is_measured(tmp_path):
    path, found = tmp_path / "part-1.jsonl", []

    def work():
        yield {"case": "first"}
        found.extend(_names(path))
        yield {"case": "second"}

    assert gpu.run_part(path, iter([("b", "a", work)]), 60.0)
    assert found == ["first"]
    assert _names(path) == ["first", "second"]


def test_a_case_that_ends_the_process_does_not_block_a_part(tmp_path):
    def killed():
        seen.append("killed")
        raise KeyboardInterrupt

    path, seen = tmp_path / "part-1.jsonl", []
    for _ in range(gpu.TRIES):
        with pytest.raises(KeyboardInterrupt):
            gpu.run_part(path, iter([("b", "k", killed), _case("a", seen)]), 60.0)
    assert gpu.run_part(path, iter([("b", "k", killed), _case("a", seen)]), 60.0)
    assert seen == ["killed"] * gpu.TRIES + ["a"]


def test_a_budget_stops_before_a_case_and_the_next_call_goes_on(tmp_path):
    path, seen = tmp_path / "part-1.jsonl", []
    assert not gpu.run_part(path, iter([_case("a", seen)]), -1.0)
    assert seen == []
    assert gpu.run_part(path, iter([_case("a", seen)]), 60.0)
    assert seen == ["a"]


def test_a_failure_is_a_row_is_tried_once_more_and_is_replaced_when_that_succeeds(tmp_path):
    path, seen = tmp_path / "part-1.jsonl", []
    assert gpu.run_part(path, iter([_broken(seen), _case("c", seen)]), 60.0)
    assert [row.get("error") for row in gpu.read_rows(tmp_path)] == [None, "RuntimeError: wrong", None]
    assert gpu.main([str(tmp_path), "--part", "table"]) == 1
    gpu.run_part(path, iter([_case("a", seen), _case("c", seen)]), 60.0)
    assert seen == ["broken", "c", "a"]
    assert [(row["case"], row.get("error")) for row in gpu.read_rows(tmp_path)] == [("a", None), ("c", None)]
    assert gpu.main([str(tmp_path), "--part", "table"]) == 0
    text = (tmp_path / "gpu.md").read_text()
    assert "jax " in text.splitlines()[0]
    assert "| case | ratio |" in text


def test_a_case_that_always_fails_is_given_up(tmp_path, capsys):
    path, seen = tmp_path / "part-1.jsonl", []
    for _ in range(3):
        assert gpu.run_part(path, iter([_broken(seen)]), 60.0)
    assert seen == ["broken", "broken"]
    assert "b, a: given up after 2 tries." in capsys.readouterr().out
    assert [(row["case"], row.get("error")) for row in gpu.read_rows(tmp_path)] == [
        ("half", None), ("a", "RuntimeError: wrong"),
    ]  # fmt: skip


def test_rows_of_one_name_are_all_kept_with_the_break_even_beside_them(tmp_path):
    """A forward product and a step, each beside a dense one, are rows of one case."""
    speedups = {0.5: (0.5, 0.25), 0.9: (2.0, 0.5)}

    def work(sparsity):
        for what, speedup in zip(("forward", "step"), speedups[sparsity], strict=True):
            same = {"what": what, "width": 64, "sparsity": sparsity}
            yield {"case": "dense", **same, "speedup": 1.0, "median_ms": 1.0}
            yield {"case": "blocks", **same, "speedup": speedup, "median_ms": 1 / speedup}

    cases = [("kernels", f"{s:.0%}", lambda s=s: work(s)) for s in speedups]
    assert gpu.run_part(tmp_path / "part-4.jsonl", iter(cases), 60.0)
    found = [(row["sparsity"], row["what"], row["case"]) for row in gpu.read_rows(tmp_path)]
    assert found == [(s, w, c) for s in speedups for w in ("forward", "step") for c in ("dense", "blocks")]
    blocks = [line for line in gpu.table(tmp_path).splitlines() if line.startswith("| blocks ")]
    assert ["77%" in line for line in blocks] == [True, False, True, False]  # 2, 0.5 of dense's time
    assert ["dense wins up to 90%" in line for line in blocks] == [False, True, False, True]
    assert gpu.table(tmp_path).count("\n| dense |") == 4


_BARE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ml_collections", "tensorflow_datasets", "array_record", "grain"}:
            raise ModuleNotFoundError(name, name=name.split(".")[0])
sys.meta_path.insert(0, Missing())
from experiments.benchmark import gpu
print(sum(len(list(gpu.cases(part, False))) for part in gpu.PARTS))
print(gpu._runner(True)[0]["note"])
"""


def test_it_runs_without_what_configurations_need():
    """A GPU machine's image need not have them, and may reach no package index."""
    done = subprocess.run([sys.executable, "-c", _BARE], capture_output=True, text=True, timeout=300)
    count, note = done.stdout.splitlines() if done.returncode == 0 else pytest.fail(done.stderr)
    assert int(count) > 40
    assert note == "not run: ml_collections is not installed"


@pytest.mark.slow
def test_steps_of_a_gpt_in_live_blocks_beside_its_dense_form():
    rows = {row["case"]: row for row in gpu_training.rows(0.5, quick=True)}
    assert list(rows) == ["dense", "blocks", "blocks, mask update"]
    plain, update = rows["blocks"], rows["blocks, mask update"]
    assert rows["dense"]["speedup"] == rows["dense"]["relative_memory"] == 1.0
    assert plain["relative_memory"] < 0.8
    shared = plain["ratio"] + (update["ratio"] - plain["ratio"]) / gpu_training.EVERY
    assert plain["speedup"] == pytest.approx(1 / shared, rel=1e-2)
    assert plain["tokens_per_second"] == round(32 / plain["median_ms"] * 1e3)


def test_the_training_benchmark_fits_the_kernels_of_the_card():
    size = gpu_training.FULL
    assert mosaic_gpu.fits(size.context * size.examples, (size.block, size.block), "bfloat16")
    assert size.width % size.block == 0


@pytest.mark.parametrize("quick", [False, True])
def test_every_part_has_its_cases(quick):
    for part in gpu.PARTS:
        names = [(benchmark, name) for benchmark, name, _ in gpu.cases(part, quick)]
        assert len(set(names)) == len(names) >= (3 if quick else 5)


def test_the_table_of_targets_has_every_product(monkeypatch):
    """Its smallest case: four comparisons, each with its own dense product, under the roof of a card that is known."""
    monkeypatch.setattr(kernels_gpu, "BANDWIDTH", {"": 1e10})
    rows = list(kernels_gpu.block_rows(128, 0.5, quick=True))
    products = ("forward", "gradient of inputs", "gradient of weights", "forward and backward")
    assert [row["what"] for row in rows] == [what for what in products for _ in range(2)]
    for dense, blocks in zip(rows[::2], rows[1::2], strict=True):
        assert (dense["case"], blocks["case"]) == ("dense", "blocks")
        assert blocks["share_of_ideal"] == pytest.approx(blocks["speedup"] / 2, abs=1e-3)
        assert (
            blocks["share_of_roof"] >= blocks["share_of_ideal"] - 1e-3
        )  # the memory can only lower the roof
    # 2 · 128² · 2.5 bytes in 8.192 µs; a dense product of 4 µs gains nothing, one of 1 s all that it can.
    assert kernels_gpu._roof(128, 0.5, 4.096e-6) == pytest.approx(0.5)
    assert kernels_gpu._roof(128, 0.5, 1.0) == pytest.approx(2.0)
    monkeypatch.setattr(kernels_gpu, "BANDWIDTH", {"H100": 1e10})
    assert kernels_gpu._roof(128, 0.5, 1.0) is None


@pytest.mark.parametrize("part", gpu.PARTS)
def test_the_first_case_of_a_part_runs(part, tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "_QUICK_SIZES", (3000, 4000))
    work = gpu.cases(part, quick=True)
    assert gpu.run_part(tmp_path / f"part-{part}.jsonl", iter([next(work)]), 60.0)
    rows = gpu.read_rows(tmp_path)
    assert rows
    assert not [row for row in rows if "error" in row]
    if part == "1":
        assert [row["case"] for row in rows] == ["mask of 3,000 normal scores"]
    elif part == "4":
        assert [row["case"].split(",")[0] for row in rows] == ["dsd", "dsd_t", "sdd", "scores"]
        assert all(row["relative_error"] < 1e-2 for row in rows)
    else:
        assert {row["case"] for row in rows} >= {"dense", {"2": "gmp: update", "3": "rebuilt"}[part]}
        assert all(row["ratio"] > 0 for row in rows)
    assert f"| {rows[0]['case']} |" in gpu.table(tmp_path)
