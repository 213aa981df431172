"""What `make gpu` runs: the benchmarks in parts of three minutes, each row on disk as it comes, one table at the end.

python -m experiments.benchmark.gpu OUT --part 1      then 2, 3, and `--part table`; the same command goes on.
"""

import argparse
import json
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from experiments.benchmark import harness, models, reparametrize, selection, shrink, step
from experiments.benchmark.harness import Row

#: Seconds after which a part begins no further case; the longest case takes about 15 more.
BUDGET = 160.0
PARTS = ("1", "2", "3")

Case = tuple[str, str, Callable[[], list[Row]]]  # benchmark, name, work


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
    """Runs the cases that the file does not have, and appends the rows of each as it ends.

    Args:
      path: the ``.jsonl`` file; a line that was cut off is dropped.
      work: the cases in the order of their weight.
      budget: seconds after which no further case begins.

    Returns:
      Whether all of them are done.
    """
    rows = _lines(path)
    harness.write_text(str(path), "".join(f"{json.dumps(row)}\n" for row in rows))
    done = {(row["benchmark"], row["of"]) for row in rows if row.get("last") and "error" not in row}
    begun, where = time.perf_counter(), harness.environment()
    for benchmark, name, call in work:
        if (benchmark, name) in done:
            continue
        if time.perf_counter() - begun > budget:
            print(f"{path.stem}: {budget:.0f} s are over; the same command goes on with {benchmark}, {name}.")
            return False
        case_begun = time.perf_counter()
        for row in _marked(_guarded(name, call)):
            _append(path, {"benchmark": benchmark, "of": name, **row, **where})
        print(f"{benchmark}, {name}: {time.perf_counter() - case_begun:.1f} s", flush=True)
    return True


def cases(part: str, quick: bool) -> Iterator[Case]:
    """The cases of a part: the first names what was promised, so that a short loan measures that."""
    if part == "1":
        for name, module in (("selection", selection), ("step", step), ("reparametrize", reparametrize)):
            yield "check", name, lambda module=module: [{"checked": line} for line in module.check(quick)]
        for name, call in selection.cases(quick):
            yield "selection", name, call
    elif part == "2":
        for model, make in (("mlp", models.mlp), ("transformer", models.transformer)):
            for name, recipe in step.chosen_recipes(quick).items():
                yield (
                    "step", f"{model}, {name}",
                    lambda model=model, make=make, name=name, recipe=recipe: [
                        {"model": model, **row} for row in step.model_rows(make(quick), {name: recipe}, 9)
                    ],
                )  # fmt: skip
        for name in ("gmp, packed", "rigl, packed"):
            yield "population of 8", name, lambda name=name: step.population_rows(name, quick)
    else:
        yield from _third(quick)


def _third(quick: bool) -> Iterator[Case]:
    for name in shrink.networks(quick):
        yield "shrink", name, lambda name=name: shrink.measure(name, shrink.networks(quick)[name], quick)
    for model, make in (("mlp", models.mlp), ("transformer", models.transformer)):
        for name, recipe in reparametrize.chosen_recipes(model, quick).items():
            yield (
                "reparametrize", f"{model}, {name}",
                lambda model=model, make=make, name=name, recipe=recipe: [
                    {"model": model, **row}
                    for row in reparametrize.model_rows(make(quick), {name: recipe}, 9)
                ],
            )  # fmt: skip
    yield "reparametrize", "noise", lambda: reparametrize.noise_rows(quick)
    yield "runner", "chunks of steps", lambda: _runner(quick)


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
    shown = [{key: value for key, value in row.items() if key not in ("of", "last")} for row in rows]
    return "\n".join(heads) + "\n\n" + harness.markdown(shown)


def read_rows(out: pathlib.Path) -> list[Row]:
    """The rows of all parts; of a case that failed and was run again the last run's."""
    found: dict[tuple[str, str], list[Row]] = {}
    for path in sorted(out.glob("part-*.jsonl")):
        for row in _lines(path):
            held = found.setdefault((row["benchmark"], row["of"]), [])
            if held and held[-1].get("last"):
                held.clear()
            held.append(row)
    return [row for rows in found.values() for row in rows]


def _marked(rows: list[Row]) -> Iterator[Row]:
    """The last row of a case says that it is: without it, the case is run again."""
    for index, row in enumerate(rows):
        yield {**row, "last": True} if index == len(rows) - 1 else row


def _guarded(name: str, call: Callable[[], list[Row]]) -> list[Row]:
    try:
        return call()
    except Exception as error:
        traceback.print_exc()
        return [{"case": name, "error": f"{type(error).__name__}: {error}".split("\n")[0]}]


def _append(path: pathlib.Path, row: Row) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _lines(path: pathlib.Path) -> list[Row]:
    """The whole lines; rows of a case that was cut off are left out."""
    rows: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    whole = {(row["benchmark"], row["of"]) for row in rows if row.get("last")}
    return [row for row in rows if (row["benchmark"], row["of"]) in whole]


if __name__ == "__main__":
    sys.exit(main())
