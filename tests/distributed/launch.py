"""Runs scripts of this folder in processes of their own, and kills all of them when they hang."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.compile_cache import WITHOUT

ROOT = Path(__file__).parents[2]


class Run:
    """A script at work: its result is one JSON of facts and one npz of arrays."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sparsejax-distributed-"))
        self.log = (self.folder / "log").open("w")
        environment = dict(os.environ)
        environment |= {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "PYTHONWARNINGS": "error::UserWarning",
            **WITHOUT,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"tests.distributed.{module}", str(self.folder), *arguments],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )

    def kill(self) -> None:
        """Ends the process and whatever it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def output(self) -> str:
        """What it has printed so far."""
        return (self.folder / "log").read_text()

    def result(self) -> tuple[dict, dict[str, np.ndarray]]:
        """Its facts and its arrays, once it has ended well."""
        with np.load(self.folder / "arrays.npz") as arrays:
            return json.loads((self.folder / "facts.json").read_text()), dict(arrays)

    def close(self) -> None:
        """Kills it and removes what it has written."""
        self.kill()
        self.log.close()
        shutil.rmtree(self.folder)


def finish(runs: list[Run], patience: float) -> list[tuple[dict, dict[str, np.ndarray]]]:
    """Waits for all runs; kills all when one fails, or when none has printed anything for `patience` seconds."""
    try:
        codes = _wait(runs, patience)
        printed = "\n---\n".join(
            run.output()[-6000:] for run, code in zip(runs, codes, strict=True) if code != 0
        )
        if any(codes):
            raise RuntimeError(f"Exit codes {codes}:\n{printed}")
        if None in codes:
            raise TimeoutError(f"Nothing happened for {patience} s; exit codes {codes}:\n{printed}")
        return [run.result() for run in runs]
    finally:
        for run in runs:
            run.close()


def _wait(runs: list[Run], patience: float) -> list[int | None]:
    seen, deadline = -1, 0.0
    while True:
        codes = [run.process.poll() for run in runs]
        printed = sum(len(run.output()) for run in runs)
        if printed > seen:
            seen, deadline = printed, time.monotonic() + patience
        if any(codes) or None not in codes or time.monotonic() > deadline:
            return codes
        time.sleep(0.05)


def free_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def save(folder: str, facts: dict, arrays: dict[str, np.ndarray]) -> None:
    """What a script leaves behind for `Run.result`."""
    np.savez(Path(folder) / "arrays.npz", **arrays)
    (Path(folder) / "facts.json").write_text(json.dumps(facts))
