"""How every benchmark measures, prints and stores: interleaved runs, ratios of the same round, one row a case."""

import datetime
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax
import jax
import jaxlib
import numpy as np
import optax

from experiments.benchmark.bar import Line
from experiments.report.tables import terminal_table

#: One measured case: ``benchmark, case, baseline, ratio, median_ms, min_ms`` and what the benchmark adds.
Row = dict[str, Any]
# The columns that come first in a table, in this order.
_COLUMNS = ("case", "median_ms", "min_ms", "compile_ms", "baseline", "ratio", "ratio_95")
# Columns that are the same for a whole run: in the header, not in the tables.
_RUN_COLUMNS = ("device", "devices", "cpus", "versions", "date")


class Jitted:
    """A jitted call whose compilation is timed on its own.

    Example:
      >>> import jax.numpy as jnp
      >>> case = Jitted(jnp.sort, jnp.array([3.0, 1.0]))
      >>> case().tolist()
      [1.0, 3.0]
    """

    def __init__(self, function: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Takes a function, its arguments, and options of `jax.jit` (static arguments, donation)."""
        self._lower = lambda: jax.jit(function, **options).lower(*args)
        self._args = [
            arg for i, arg in enumerate(args) if i not in np.atleast_1d(options.get("static_argnums", []))
        ]
        self._program: Callable[..., Any] | None = None

    def compile(self) -> None:
        """Traces, lowers and compiles; a second call does nothing."""
        if self._program is None:
            self._program = self._lower().compile()

    def __call__(self) -> Any:
        """Runs the program."""
        self.compile()
        return self._program(*self._args)


def interleaved(
    cases: Mapping[str, Callable[[], Any]],
    baseline: str,
    *,
    repeats: int = 9,
    min_seconds: float = 0.5,
    once: Collection[str] = (),
) -> list[Row]:
    """Times the cases in turn, round by round, so that a slow moment of the machine meets all of them.

    ``ratio`` of a case is the median over the rounds of time(case) / time(baseline) *of the same round*.
    The first call of each case, and its compilation, are not among the timed ones.

    Args:
      cases: name to a call whose result is waited for; one with a ``compile`` method (`Jitted`) also gets its
        ``compile_ms``.
      baseline: the name of the case that the others are divided by.
      repeats: at least so many rounds.
      min_seconds: rounds go on until they took this long together.
      once: cases too slow to repeat: compiled, then run in the first round only, without a warm-up. Their rows
        say so.

    Returns:
      One row a case: ``case, baseline, ratio, ratio_95, median_ms, min_ms, rounds`` and ``compile_ms`` where known.

    Raises:
      ValueError: `baseline` or `once` names no case.

    Example:
      >>> rows = interleaved({"a": lambda: sum(range(99)), "b": lambda: sum(range(9999))}, "a", min_seconds=0.0)
      >>> [row["case"] for row in rows], rows[0]["ratio"]
      (['a', 'b'], 1.0)
    """
    unknown = {baseline, *once} - set(cases)
    if unknown or baseline in once:
        raise ValueError(
            f"Baseline {baseline!r} and once={list(once)} must name cases, and differ; there are {list(cases)}."
        )
    compile_ms: dict[str, float | None] = {}
    times: dict[str, list[float]] = {name: [] for name in cases}
    with Line() as line:
        for number, (name, case) in enumerate(cases.items(), 1):
            line.show(f"compiling {number}/{len(cases)} · {name}")
            compile_ms[name] = _compile(case)
            if name not in once:
                _seconds(case)
        begin = time.perf_counter()
        rounds = 0
        while rounds < repeats or time.perf_counter() - begin < min_seconds:
            for name in _order(list(cases), rounds):
                if rounds == 0 or name not in once:
                    line.show(_progress(rounds, repeats, begin, min_seconds, name), often=True)
                    times[name].append(_seconds(cases[name]))
            rounds += 1
    return [_row(name, baseline, times, compile_ms[name]) for name in cases]


def _progress(rounds: int, repeats: int, begin: float, min_seconds: float, name: str) -> str:
    """Rounds done, the time left, what is timed now."""
    spent = time.perf_counter() - begin
    left = max(spent / rounds * (repeats - rounds), min_seconds - spent, 0.0) if rounds else 0.0
    return (
        f"round {rounds + 1}/{max(repeats, rounds + 1)} · {f'{left:.0f} s left · ' if rounds else ''}{name}"
    )


def _order(names: list[str], turn: int) -> list[str]:
    """Starts each round with another case, so that none always runs in another's warm cache."""
    shift = turn % len(names)
    return names[shift:] + names[:shift]


def _compile(case: Callable[[], Any]) -> float | None:
    if not hasattr(case, "compile"):
        return None
    begin = time.perf_counter()
    case.compile()
    return round((time.perf_counter() - begin) * 1e3, 1)


def _seconds(case: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(case())
    return time.perf_counter() - begin


def _row(name: str, baseline: str, times: Mapping[str, Sequence[float]], compile_ms: float | None) -> Row:
    own = times[name]
    ratios = [mine / theirs for mine, theirs in zip(own, times[baseline], strict=False)]
    row = {
        "case": name,
        "baseline": baseline,
        "ratio": _significant(statistics.median(ratios)),
        "ratio_95": interval(ratios),
        "median_ms": _significant(statistics.median(own) * 1e3),
        "min_ms": _significant(min(own) * 1e3),
        "rounds": len(own),
    }
    return row if compile_ms is None else {**row, "compile_ms": compile_ms}


def interval(ratios: Sequence[float]) -> str:
    """The 95 % confidence interval of the median, from order statistics: no distribution is assumed.

    Args:
      ratios: one a round.

    Returns:
      "low–high"; all that there is where the rounds are too few for 95 %.

    Example:
      >>> interval([1.0, 1.1, 1.2])
      '1.0–1.2'
    """
    ordered, n = sorted(ratios), len(ratios)
    tail = max(int((n - 1.96 * n**0.5) / 2), 0)
    return f"{_significant(ordered[tail])}–{_significant(ordered[n - 1 - tail])}"


def _significant(value: float) -> float:
    """Four digits: what such a measurement is good for."""
    return float(f"{value:.4g}")


def environment() -> Row:
    """Says what the numbers were measured on: device, number of devices and of cores, versions, date."""
    packages = {"jax": jax, "jaxlib": jaxlib, "flax": flax, "optax": optax, "numpy": np}
    versions = {name: package.__version__ for name, package in packages.items()}
    return {
        "device": _device(),
        "devices": jax.device_count(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {"python": platform.python_version(), **versions},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _device() -> str:
    kind = jax.devices()[0].device_kind
    if jax.default_backend() != "cpu" or not os.path.exists("/proc/cpuinfo"):
        return kind
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return f"{kind} ({names[0]})" if names else kind


def header(where: Row) -> str:
    """One line of `environment` for the top of a report."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return f"{where['devices']} × {where['device']}, {where['cpus']} CPU cores; {versions}; {where['date']}"


def table(rows: Sequence[Row]) -> str:
    """Lays rows out benchmark by benchmark for a terminal: aligned, columns that do not fit in a block below."""
    return "\n\n".join(f"{name}\n{terminal_table(*_cells(part))}" for name, part in _by_benchmark(rows))


def markdown(rows: Sequence[Row]) -> str:
    """Lays rows out as markdown tables, one a benchmark."""
    return "\n\n".join(_markdown(name, *_cells(part)) for name, part in _by_benchmark(rows)) + "\n"


def _by_benchmark(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    names = list(dict.fromkeys(row.get("benchmark", "") for row in rows))
    return [(name, [row for row in rows if row.get("benchmark", "") == name]) for name in names]


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    hidden = {"benchmark", *_RUN_COLUMNS}
    seen = list(dict.fromkeys(key for row in rows for key in row if key not in hidden))
    columns = [key for key in _COLUMNS if key in seen] + [key for key in seen if key not in _COLUMNS]
    return columns, [[_text(row.get(key)) for key in columns] for row in rows]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1e4 else str(value)


def _markdown(name: str, columns: list[str], cells: list[list[str]]) -> str:
    lines = [
        columns,
        ["---"] * len(columns),
        *([text.replace("|", "\\|") for text in line] for line in cells),
    ]
    return "\n".join([f"### {name}", "", *("| " + " | ".join(line) + " |" for line in lines)])


def write_json(path: str, rows: Sequence[Row]) -> None:
    """Writes rows as a JSON list, all or nothing."""
    write_text(path, json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n")


def write_text(path: str, text: str) -> None:
    """Writes a file under another name, then renames it: a reader never sees half of it."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=os.path.basename(path), suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
