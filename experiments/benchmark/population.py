"""A lottery study of 8 seeds as one program, against the same seeds in processes and in one process, one by one."""

import io
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from ml_collections import ConfigDict
from rich.console import Console

from experiments.benchmark.harness import Row
from experiments.config.fields import default_config
from experiments.lottery import command as lottery

_ROOT = pathlib.Path(__file__).parents[2]


def run(quick: bool) -> list[Row]:
    """Times whole studies by the clock, on LeNet-300-100 and the digits: starts, compilation, levels and reports.

    Args:
      quick: two seeds, one level, 20 steps.

    Returns:
      Rows; ``ratio`` to the time of the one program, so above 1 the population is faster.
    """
    seeds, levels, steps = (2, 1, 20) if quick else (8, 5, 1000)
    together = _seconds(seeds, levels, steps, [range(seeds)])
    cases = {
        "one program": together,
        f"{seeds} processes, one after the other": _seconds(
            seeds, levels, steps, [[i] for i in range(seeds)]
        ),
        "one process, one after the other": _seconds(seeds, levels, steps, [range(seeds)], alone=True),
    }
    return [
        {
            "model": f"LeNet-300-100, {seeds} seeds, {levels} levels", "steps": steps, "case": case,
            "baseline": "one program", "ratio": value / together,
            "median_ms": round(1e3 * value), "min_ms": round(1e3 * value),
        }
        for case, value in cases.items()
    ]  # fmt: skip


def _seconds(seeds: int, levels: int, steps: int, processes: list, *, alone: bool = False) -> float:
    """Runs the processes one after the other, each with its seeds; they share no compiled program."""
    root = tempfile.mkdtemp()
    begin = time.perf_counter()
    try:
        for members in processes:
            arguments = [root, str(levels), str(steps), str(int(alone)), *map(str, members)]
            subprocess.run(
                [sys.executable, "-m", "experiments.benchmark.population", *arguments], check=True, cwd=_ROOT
            )
        return time.perf_counter() - begin
    finally:
        shutil.rmtree(root)


def study(levels: int, steps: int, first: int, count: int) -> ConfigDict:
    """The study of some seeds: tickets alone, without controls."""
    made = ConfigDict()
    made.title = "population benchmark"
    made.base = default_config("mlp")
    made.base.update(
        ConfigDict({"seed": first, "population": count, "steps": steps, "eval_every": min(100, steps)})
    )
    made.base.update(ConfigDict({"learning_rate": 0.0012, "weight_decay": 0.0, "checkpoint_every": 0}))
    made.levels, made.fraction, made.rewind_step, made.keep_weights = levels, 0.2, 0, False
    made.distribution, made.controls, made.connectivity = "uniform", (), False
    made.metric, made.lower = "test_accuracy", False
    return made


def _process(root: str, levels: int, steps: int, alone: int, *seeds: int) -> None:
    """One of the processes of `_seconds`."""
    parts = [(seed, 1) for seed in seeds] if alone else [(seeds[0], len(seeds))]
    for first, count in parts:
        lottery.run(
            study(levels, steps, first, count), f"{root}/seeds_{first}_{count}", Console(file=io.StringIO())
        )


if __name__ == "__main__":
    _process(sys.argv[1], *map(int, sys.argv[2:]))
