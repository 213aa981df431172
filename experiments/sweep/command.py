"""Runs what a function yields: each configuration as a process of its own, in a directory named by its hash.

python -m experiments.sweep --sweep=configs/sweeps/digits_sparsities.py --workdir=runs/sparsities --workers=2
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import pathlib
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from rich.console import Console

from experiments import command
from experiments.config.help import wrapped
from experiments.config.validation import validate_config
from experiments.errors import ConfigError, error_text
from experiments.record import files
from experiments.record.outcome import as_json
from experiments.report import gathering
from experiments.sweep import engines
from experiments.sweep import table as sweep_table
from sparsejax.errors import SparsejaxError

_FROM_JSON = pathlib.Path(__file__).parents[2] / "configs" / "from_json.py"


class PlannedRun(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: the hash of its configuration.
      workdir: its directory.
      config: as JSON holds it.
    """

    name: str
    workdir: pathlib.Path
    config: dict[str, Any]

    @property
    def is_finished(self) -> bool:
        """Whether it has left its result, whole."""
        try:
            return isinstance(json.loads((self.workdir / "result.json").read_text()), dict)
        except (OSError, ValueError):
            return False


def main(argv: Sequence[str]) -> int:
    """Runs a sweep; the exit status says whether all of it is finished."""
    arguments = _parse(argv)
    options = engines.Options(
        arguments.workers, arguments.retries, arguments.address, arguments.cpus, arguments.gpus,
        arguments.minutes, arguments.cluster, pathlib.Path(arguments.workdir).absolute(),
    )  # fmt: skip
    try:
        if arguments.extend:
            raise ConfigError(command.ONE_RUN.format("experiments.sweep"))
        with _stopped_by_sigterm():
            return sweep(arguments.sweep, arguments.engine, options)
    except SparsejaxError as error:
        print(error_text(error), file=sys.stderr)
        return command.FAILED
    except KeyboardInterrupt:
        print("Stopped; the same command goes on with what is not finished.", file=sys.stderr)
        return 130


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep",
        description=wrapped(__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sweep", required=True, help="a file with get_sweep(), which yields configurations")
    parser.add_argument("--workdir", required=True, help="each run has its own directory below")
    parser.add_argument("--engine", default="local", help=f"one of {', '.join(engines.ENGINES)}")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes at once (local, ray), or array tasks (slurm)"
    )
    parser.add_argument("--retries", type=int, default=2, help="times that a killed run is started again")
    parser.add_argument("--address", default="", help="ray: the cluster's; empty for this machine")
    parser.add_argument("--cpus", type=float, default=1.0, help="ray, slurm: cores of a run")
    parser.add_argument("--gpus", type=float, default=0.0, help="ray, slurm: GPUs of a run")
    parser.add_argument(
        "--minutes", type=float, default=60, help="slurm: time limit of a run; it is requeued then"
    )
    parser.add_argument(
        "--cluster", default="slurm", choices=("slurm", "local"), help="slurm: submitit's executor"
    )
    parser.add_argument("--extend", action="store_true", help=argparse.SUPPRESS)  # refused, with the reason
    return parser.parse_args(argv)


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM stop the runs as Ctrl-C does."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def sweep(path: str, engine: str, options: engines.Options, console: Console | None = None) -> int:
    """Runs what is not finished of a sweep, and shows how it goes.

    Args:
      path: a file with ``get_sweep()``.
      engine: a key of `engines.ENGINES`.
      options: how the engine runs.
      console: where to report; standard output by default.

    Returns:
      0 if all runs are finished, else 1.

    Raises:
      ConfigError: the file, a configuration or the engine is wrong; nothing has run then.
    """
    console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
    _check(engine, options)
    runs = {run.name: run for run in (prepare(config, options.workdir) for config in read_sweep(path))}
    if not runs:
        raise ConfigError(f"{path}: get_sweep() yields no configuration.")
    waiting = [run for run in runs.values() if not run.is_finished]
    console.print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished before; engine {engine}")
    jobs = [begin(run) for run in waiting]
    places = [run.workdir for run in runs.values()]
    with (
        contextlib.closing(engines.ENGINES[engine](jobs, options)) as ends,
        sweep_table.watch(places, console, len(waiting)) as show,
    ):
        for ended in ends:
            files.write_json(_place(runs[ended.name], "ended"), ended._asdict())
            show(ended)
    console.print(sweep_table.overview(places, console.width))
    return 0 if all(run.is_finished for run in runs.values()) else 1


def _check(engine: str, options: engines.Options) -> None:
    if engine not in engines.ENGINES:
        raise ConfigError(f"There is no engine {engine!r}: choose one of {', '.join(engines.ENGINES)}.")
    if options.workers < 1 or options.retries < 0:
        raise ConfigError(
            f"A sweep needs workers (got {options.workers}) and retries from 0 (got {options.retries})."
        )


def read_sweep(path: str) -> Iterator[ConfigDict]:
    """The configurations of a sweep file.

    Raises:
      ConfigError: no such file, or no `get_sweep` in it.
    """
    if (
        not pathlib.Path(path).is_file()
        or (spec := importlib.util.spec_from_file_location("sweep_file", path)) is None
    ):
        raise ConfigError(f"There is no sweep file {path} (Python, with a function get_sweep).")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_sweep"):
        raise ConfigError(f"{path} has no get_sweep(), a function that yields configurations.")
    yield from module.get_sweep()


def prepare(config: ConfigDict, root: pathlib.Path) -> PlannedRun:
    """Checks a configuration and names its run by the hash of it."""
    validate_config(config)
    content = as_json(config)
    name = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    return PlannedRun(name, root / name, content)


def begin(run: PlannedRun) -> engines.Job:
    """Writes down what is to run, and says how to start it."""
    stored = _place(run, "json")
    stored.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(stored, run.config)
    _place(run, "ended").unlink(missing_ok=True)
    command_line = (
        sys.executable, "-m", "experiments.train", f"--config={_FROM_JSON}:{stored}", f"--workdir={run.workdir}",
    )  # fmt: skip
    return engines.Job(run.name, command_line, run.workdir)


def _place(run: PlannedRun, kind: str) -> pathlib.Path:
    return run.workdir.parent / gathering.SWEEP / f"{run.name}.{kind}"
