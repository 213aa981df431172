"""Runs of `experiments.train` in processes of their own, started from one that has imported everything already."""

import contextlib
import io
import json
import multiprocessing
import os
import pathlib
import runpy
import shutil
import signal
import sys
import time

from rich.console import Console

from experiments.config.fields import default_config
from experiments.errors import Interrupted

#: Forks what has imported JAX but not yet used it, so that twenty starts do not cost twenty imports.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "tests.experiments.killing",
        "experiments.train",
        "orbax.checkpoint",
        "tensorflow_datasets",
        "tensorboardX",
    ]
)
DEADLINE = 120


def make_config(data_dir, method="rigl", **changes):
    """A short run on the digits: six chunks, a checkpoint after each."""
    config = default_config()
    config.steps, config.eval_every, config.update_every, config.data_dir = 60, 10, 10, data_dir
    config.checkpoint_every, config.model.widths = 10, (24,)
    config.method, config.sparsity = method, 0.0 if method == "dense" else 0.95
    for name, value in changes.items():
        config[name] = value
    return config


def run(config, workdir, **options):
    """Trains in this process; returns the result and what was said."""
    from experiments import train

    out = io.StringIO()
    console = Console(file=out, width=200)
    return train.run(config, str(workdir), console, plots=False, **options), out.getvalue()


def as_killed(workdir, place, step):
    """A copy of a finished run as a kill right after the checkpoint of `step` leaves it; returns its place."""
    place = pathlib.Path(shutil.copytree(workdir, place))
    for path in place.iterdir():
        if path.name == "result.json" or path.suffix in (".npz", ".png", ".txt"):
            path.unlink()
    for path in (*(place / "checkpoints").iterdir(), *(place / "records").iterdir()):
        if int(path.stem.split("_")[-2 if path.suffix == ".json" else -1]) > step:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    rows = (place / "metrics.jsonl").read_text().splitlines(keepends=True)
    (place / "metrics.jsonl").write_text("".join(row for row in rows if json.loads(row)["step"] <= step))
    return place


def start(config, workdir, **options):
    """Trains in a process of its own."""
    return _process(_train, config, str(workdir), options)


def _train(config, workdir, options):
    with _logged(workdir), contextlib.suppress(Interrupted):
        run(config, workdir, **options)


def start_lottery(study, workdir):
    """Runs a lottery study in a process of its own."""
    return _process(_lottery, study, str(workdir))


def _lottery(study, workdir):
    from experiments.lottery import command as lottery

    with _logged(workdir) as log:
        lottery.run(study, workdir, Console(file=log, width=200))


def _process(target, *arguments):
    process = _CONTEXT.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


@contextlib.contextmanager
def _logged(workdir):
    with open(pathlib.Path(workdir).with_suffix(".log"), "a") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
        yield log


def command(arguments, output, module="experiments.train"):
    """Gives the command line to `experiments.train`, or another, in a process of its own, which writes to a file."""
    return _process(_command, list(arguments), str(output), module)


def _command(arguments, output, module):
    with open(output, "w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = [module, *arguments]
    if module == "experiments.train":
        # It was imported ahead, under its other name; not where another file had started the server.
        sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def wait_until(condition, process):
    """Waits for a condition, which is polled often enough to hit a save, or for the end of the process."""
    deadline = time.monotonic() + DEADLINE
    while not condition() and process.is_alive():
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {process.pid} did not come that far in {DEADLINE} s")
        time.sleep(0.0005)


def kill(process):
    """kill -9; returns whether it was still running."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.join(DEADLINE)
    return process.exitcode == -signal.SIGKILL


def unfinished_saves(workdir):
    """Checkpoints that are being written, or were when the process was killed."""
    folder = pathlib.Path(workdir) / "checkpoints"
    return {path.name for path in folder.glob("*") if not path.name.isdigit()}


def saved_steps(workdir):
    """Steps of the complete checkpoints."""
    folder = pathlib.Path(workdir) / "checkpoints"
    return {int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()}
