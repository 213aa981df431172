"""Runs one benchmark, or all of them, and prints its table:  python -m experiments.benchmark NAME --json PATH"""

import argparse
import ast
import importlib
import os
import pathlib
import sys
import textwrap
from collections.abc import Sequence

_HERE = pathlib.Path(__file__).parent
_NO_BENCHMARK = {
    "__init__",
    "__main__",
    "bar",
    "harness",
    "models",
    "gpu",
    "aot",
    "aot_cases",
    "aot_targets",
    "kernels_gpu",
    "kernels_peer",
    "kernels_training",
    "peer_process",
    "runtimes",
}

# Their ratios are those of one core: more would be shared differently by the cases.
_ONE_CORE = {"step", "selection", "kernels", "block_gpt", "decode"}


def names() -> list[str]:
    """The benchmarks there are: every file of this folder but the harness."""
    return sorted(path.stem for path in _HERE.glob("*.py") if path.stem not in _NO_BENCHMARK)


def describe(name: str) -> str:
    """The first line of a benchmark's docstring, read without importing it."""
    text = ast.get_docstring(ast.parse((_HERE / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    listing = "\n".join(
        textwrap.fill(
            describe(name),
            80,
            initial_indent=f"  {name:14}",
            subsequent_indent=" " * 16,
            break_on_hyphens=False,
        )
        for name in names()
    )
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmark",
        description=f"{(__doc__ or '').split(':')[0]}.\n\nbenchmarks:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="one of the benchmarks above")
    parser.add_argument("--json", metavar="PATH", help="write the rows as a JSON list")
    parser.add_argument("--markdown", metavar="PATH", help="write the tables as markdown")
    parser.add_argument("--quick", action="store_true", help="small sizes, a few seconds: does it run?")
    arguments = parser.parse_args(argv)
    if arguments.name not in names():
        parser.error(f"there is no benchmark {arguments.name!r}; there are: {', '.join(names())}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, writes; returns the exit status: 1 if a check or a benchmark failed."""
    arguments = _parse(argv)
    if arguments.name in _ONE_CORE and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before JAX starts its threads
    from experiments.benchmark import harness  # JAX only now: a wrong name or --help answers at once

    where = harness.environment()
    print(f"{arguments.name}: {describe(arguments.name)}\n{harness.header(where)}\n", flush=True)
    module = importlib.import_module(f"experiments.benchmark.{arguments.name}")
    rows = []
    for row in module.run(arguments.quick):
        rows.append({"benchmark": arguments.name, **row, **where})
        if arguments.json:  # as they come: what was measured before a kill stays
            harness.write_json(arguments.json, rows)
    print(harness.table(rows), flush=True)
    if arguments.markdown:
        harness.write_text(arguments.markdown, f"{harness.header(where)}\n\n{harness.markdown(rows)}")
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
