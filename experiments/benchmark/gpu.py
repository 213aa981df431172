"""What `make gpu` runs: the benchmarks in parts of three minutes, each row on disk as it is measured, one table.

python -m experiments.benchmark.gpu OUT --part 1      then 2, 3, 4, and `--part table`; the same command goes on.
"""

import argparse
import functools
import json
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence

from experiments.benchmark import harness, kernels_gpu, models, reparametrize, selection, shrink, step
from experiments.benchmark.harness import Row
from experiments.report.break_even import crossing

#: Seconds after which a part begins no further case; the longest case takes about 15 more.
BUDGET = 160.0
#: How often a case that fails, or with which the process ends, is tried in one directory.
TRIES = 2
PARTS = ("1", "2", "3", "4")
_MODELS = {"mlp": models.mlp, "transformer": models.transformer}
#: What tells the dense baselines of a benchmark apart.
_MATRIX = ("what", "width", "sparsity")

Case = tuple[str, str, Callable[[], Iterable[Row]]]  # benchmark, name, work


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one part, or writes the table; returns 1 if a case of it failed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark.gpu", description=__doc__)
    parser.add_argument("out", help="directory of part-N.jsonl and gpu.md")
    parser.add_argument("--part", default="all", choices=(*PARTS, "table", "all"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args(argv)
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    chosen = PARTS if arguments.part == "all" else tuple(p for p in PARTS if p == arguments.part)
    for part in chosen:
        run_part(out / f"part-{part}.jsonl", cases(part, arguments.quick), BUDGET)
    text = table(out)
    print(text)
    harness.write_text(str(out / "gpu.md"), text)
    return int(any("error" in row for row in read_rows(out)))


def run_part(path: pathlib.Path, work: Iterator[Case], budget: float) -> bool:
    """Runs the cases that the file does not have; each row is in the file once it is measured.

    The file also says where each case began and where it was done, so that one that failed, or with which the
    process ended, is run again, at most `TRIES` times in all.

    Args:
      path: the ``.jsonl`` file.
      work: the cases in the order of their weight.
      budget: seconds after which no further case begins.

    Returns:
      Whether none is left to run.
    """
    begun, lines, where = time.perf_counter(), _lines(path), harness.environment()
    harness.write_text(str(path), "".join(f"{json.dumps(line)}\n" for line in lines))  # without half a line
    for benchmark, name, call in work:
        states = [line["state"] for line in lines if _of(line) == (benchmark, name) and "state" in line]
        if "done" in states:
            continue
        if len(states) >= TRIES:
            print(f"{benchmark}, {name}: given up after {TRIES} tries.")
            continue
        if time.perf_counter() - begun > budget:
            print(f"{path.stem}: {budget:.0f} s are over; the same command goes on with {benchmark}, {name}.")
            return False
        case_begun, label = time.perf_counter(), {"benchmark": benchmark, "of": name}
        for line in _guarded(name, call):
            _append(path, {**label, **line, **({} if "state" in line else where)})
        print(f"{benchmark}, {name}: {time.perf_counter() - case_begun:.1f} s", flush=True)
    return True


def cases(part: str, quick: bool) -> Iterator[Case]:
    """The cases of a part: the first names what was promised, so that a short loan measures that."""
    return {"1": _selections, "2": _steps, "3": _others, "4": kernels_gpu.cases}[part](quick)


def _selections(quick: bool) -> Iterator[Case]:
    """Exactness, then the times of a selection; the exactness of the largest comes last, the host takes long."""
    *sizes, largest = selection.checked_sizes(quick)
    yield from _mask_checks(sizes)
    for name, module in (("step", step), ("reparametrize", reparametrize)):
        yield "check", name, lambda module=module: ({"case": line} for line in module.check(quick))
    for name, call in selection.cases(quick):
        yield "selection", name, call
    yield from _mask_checks([largest])


def _mask_checks(sizes: Iterable[int]) -> Iterator[Case]:
    for size in sizes:
        for name in selection.DISTRIBUTIONS:
            call = lambda size=size, name=name: [{"case": selection.check_mask(size, name)}]  # noqa: E731
            yield "check", f"{size:,} {name}", call


def _steps(quick: bool) -> Iterator[Case]:
    recipes = {model: step.chosen_recipes(quick) for model in (("mlp",) if quick else _MODELS)}
    yield from _beside_dense("step", step, recipes, quick)
    for name in ("gmp",) if quick else ("gmp", "rigl"):
        yield "population of 8", name, lambda name=name: step.population_rows(name, quick)


def _others(quick: bool) -> Iterator[Case]:
    for name, network in shrink.networks(quick).items():
        yield "shrink", name, lambda name=name, net=network: shrink.measure(name, net, quick)
    recipes = {model: reparametrize.chosen_recipes(model, quick) for model in _MODELS}
    if quick:
        recipes = {"mlp": {"movement": recipes["mlp"]["movement"]}}
    yield from _beside_dense("reparametrize", reparametrize, recipes, quick)
    yield "reparametrize", "noise", lambda: reparametrize.noise_rows(quick)
    yield "runner", "chunks of steps", lambda: _runner(quick)


def _beside_dense(benchmark: str, module: object, recipes: dict[str, dict], quick: bool) -> Iterator[Case]:
    """A case a model and recipe; those of a model share one compiled dense step."""
    for model, chosen in recipes.items():
        task = functools.cache(lambda model=model: _MODELS[model](quick))
        dense = functools.cache(lambda task=task: step.dense_step(task()))
        for name, recipe in chosen.items():

            def rows(
                model: str = model, name: str = name, recipe: Callable = recipe, task: Callable = task,
                dense: Callable = dense,
            ) -> Iterator[Row]:  # fmt: skip
                for row in module.model_rows(task(), {name: recipe}, 9, dense()):
                    yield {"model": model, **row}

            yield benchmark, f"{model}, {name}", rows


def _runner(quick: bool) -> list[Row]:
    try:
        from experiments.benchmark import runner  # late: configurations need the `experiments` extra
    except ModuleNotFoundError as error:
        return [{"case": "chunks", "note": f"not run: {error.name} is not installed"}]
    return runner.loop_rows("mlp, batch 32", runner.mlp(32), 20 if quick else 500)


def table(out: pathlib.Path) -> str:
    """Renders all rows of a directory as one markdown page, headed by date, card and versions."""
    rows = read_rows(out)
    if not rows:
        return "No rows yet.\n"
    heads = list(dict.fromkeys(harness.header({**row, "date": row["date"][:10]}) for row in rows))
    shown: list[Row] = []
    dense = set()  # measured anew with every recipe: a model's first says enough
    for row in _with_break_even(rows):
        which = tuple(row.get(key) for key in ("benchmark", "model", *_MATRIX))
        if row["case"] != "dense" or which not in dense:
            shown.append({key: value for key, value in row.items() if key != "of"})
        if row["case"] == "dense":
            dense.add(which)
    return "\n".join(heads) + "\n\n" + harness.markdown(shown)


def _with_break_even(rows: list[Row]) -> list[Row]:
    """Beside each speed-up from which sparsity zeros pay, by all sparsities of the same matrix and form."""
    lines: dict[tuple, list[tuple[float, float]]] = {}
    for row in rows:
        if {"sparsity", "speedup"} <= set(row):
            lines.setdefault(_matrix_of(row), []).append((row["sparsity"], row["speedup"]))
    found = []
    for row in rows:
        line = sorted(lines.get(_matrix_of(row), []))
        if row["case"].startswith("dense") or len(line) < 2 or "speedup" not in row:
            found.append(row)
            continue
        found.append({**row, "break_even": crossing(line)})
    return found


def _matrix_of(row: Row) -> tuple:
    return tuple(row.get(key) for key in ("benchmark", "case", "what", "width"))


def read_rows(out: pathlib.Path) -> list[Row]:
    """The rows of all parts: of a case that is done the last run's, else whatever its tries measured."""
    found: dict[tuple[str, str], dict[tuple[str, int], Row]] = {}
    for path in sorted(out.glob("part-*.jsonl")):
        tries: dict[tuple[str, str], dict[tuple[str, int], Row]] = {}
        for line in _lines(path):
            if "state" not in line:
                own = tries.setdefault(_of(line), {})
                # The name alone would let the second "dense" of a case take the place of its first.
                named = line["case"], sum(name == line["case"] for name, _ in own)
                own[named] = line
                found.setdefault(_of(line), {})[named] = line
            elif line["state"] == "begun":
                tries[_of(line)] = {}
            else:
                found[_of(line)] = tries.get(_of(line), {})
    return [row for rows in found.values() for row in rows.values()]


def _guarded(name: str, call: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """The rows of a case between the lines that say that it began and that it is done."""
    yield {"state": "begun"}
    try:
        yield from call()
    except Exception as error:
        traceback.print_exc()
        yield {"case": name, "error": f"{type(error).__name__}: {error}".split("\n")[0]}
    else:
        yield {"state": "done"}


def _of(line: Row) -> tuple[str, str]:
    return line["benchmark"], line["of"]


def _append(path: pathlib.Path, line: Row) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _lines(path: pathlib.Path) -> list[Row]:
    """The whole lines; one that a kill cut off is left out."""
    lines: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


if __name__ == "__main__":
    sys.exit(main())
