"""Draws mutants, runs each against the tests of its file, and writes what became of them.

python -m tests.mutation --count=165 --out=tests/mutation/results.json

A run that was broken off goes on where it stopped. Survivors for which the file gives no reason ("equivalent: …") are
printed, and the exit status is 1; `--again` runs these anew.
"""

import argparse
import pathlib
import sys

from tests.mutation.covering import tests_of
from tests.mutation.drawing import ROOT, all_mutants, draw
from tests.mutation.results import KILLED, found_again, read, row_of, verdict, write
from tests.mutation.running import run, warm

_NOTHING = {"outcome": "", "by": "", "seconds": 0.0}


def source(path: str) -> str:
    """The text of a file of the checkout."""
    return (ROOT / path).read_text()


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=165)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).with_name("results.json"))
    parser.add_argument("--again", action="store_true", help="run those anew that were not killed")
    options = parser.parse_args()
    rows = read(options.out)
    if options.again:
        alive = [row for row in rows.values() if row.outcome not in KILLED and not row.why]
        mutants = [found_again(row, source(row.path)) for row in alive]
        for row in alive:
            del rows[row.key]
    else:
        mutants = draw(all_mutants(), options.count, options.seed)
    warm()
    for number, mutant in enumerate(mutant for mutant in mutants if mutant is not None):
        if row_of(mutant, source(mutant.path), _NOTHING).key in rows:
            continue
        row = row_of(mutant, source(mutant.path), run(mutant, tests_of(mutant.path)))
        rows[row.key] = row
        write(options.out, rows)
        print(f"{number + 1} {row.seconds:5.1f} s  {row.outcome:9} {row.said()}  {row.by}", flush=True)
    print(verdict(rows.values()))
    alive = [row for row in rows.values() if row.outcome not in KILLED and not row.why]
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
