"""Every check, then every benchmark there is: what `make gpu` runs on an accelerator."""

import importlib
import time
import traceback
from collections.abc import Callable, Iterable

from experiments.benchmark.__main__ import names
from experiments.benchmark.harness import Row


def run(quick: bool) -> list[Row]:
    """Runs ``check(quick)`` of each module that has one, then ``run(quick)`` of each.

    A failure becomes a row with ``error``, and the others go on: a day of a borrowed machine should not end with
    the first of them.

    Args:
      quick: small sizes.

    Returns:
      The rows of all benchmarks, and one row for each check.
    """
    others = [name for name in names() if name != "all"]
    rows: list[Row] = []
    for name in others:
        rows += _guarded("check", name, lambda name=name: _check(name, quick))
    for name in others:
        rows += _guarded(name, name, lambda name=name: _load(name).run(quick))
    return rows


def _load(name: str) -> object:
    return importlib.import_module(f"experiments.benchmark.{name}")


def _check(name: str, quick: bool) -> list[Row]:
    check = getattr(_load(name), "check", None)
    return [] if check is None else [{"case": name, "checked": what} for what in check(quick)]


def _guarded(benchmark: str, name: str, work: Callable[[], Iterable[Row]]) -> list[Row]:
    begin = time.perf_counter()
    print(f"{benchmark} {name} …", flush=True)
    try:
        rows = list(work())
    except Exception as error:
        traceback.print_exc()
        rows = [{"case": name, "error": f"{type(error).__name__}: {error}".split("\n")[0]}]
    print(f"{benchmark} {name}: {time.perf_counter() - begin:.0f} s", flush=True)
    return [{"benchmark": benchmark, **row} for row in rows]
