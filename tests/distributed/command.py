"""Runs `python -m experiments.train` as several processes on the loopback, each with simulated devices."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.compile_cache import WITHOUT
from tests.distributed.launch import ROOT, free_port

SIZES = (
    "--config=configs/digits_mlp.py:rigl",
    "--config.model.widths=(64,)",
    "--config.steps=24",
    "--config.eval_every=6",
    "--config.update_every=4",
    "--config.checkpoint_every=6",
    "--config.keep_checkpoints=9",
    "--config.batch_size=64",
)


class Launch:
    """One run of several processes, `own` variables of some by number; leaving the block ends all of them."""

    def __init__(
        self,
        workdir: Path,
        *fields: str,
        processes: int = 2,
        devices: int = 2,
        own: Mapping[int, Mapping[str, str]] | None = None,
    ) -> None:
        workdir.parent.mkdir(exist_ok=True, parents=True)
        self.workdir, port = workdir, free_port()
        self._logs = [workdir.parent / f"{workdir.name}.{i}.log" for i in range(processes)]
        command = [sys.executable, "-m", "experiments.train", *SIZES, f"--workdir={workdir}", *fields]
        self.processes = []
        for number, log in enumerate(self._logs):
            environment = dict(os.environ)
            environment |= {
                "JAX_PLATFORMS": "cpu",
                **WITHOUT,
                "JAX_NUM_CPU_DEVICES": str(devices),
                "PYTHONPATH": str(ROOT),
            }
            if processes > 1:
                environment |= {
                    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                    "JAX_NUM_PROCESSES": str(processes),
                    "JAX_PROCESS_ID": str(number),
                }
            environment |= (own or {}).get(number, {})
            with log.open("w") as out:
                self.processes.append(
                    subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
                )

    def __enter__(self) -> "Launch":
        return self

    def __exit__(self, *problem: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def output(self, number: int) -> str:
        """What a process has printed so far."""
        return self._logs[number].read_text()

    def wait(self, patience: float = 240) -> list[int]:
        """The exit statuses, once all have ended."""
        self.until(lambda: all(process.poll() is not None for process in self.processes), patience)
        return [process.returncode for process in self.processes]

    def until(self, holds: Callable[[], bool], patience: float = 240) -> None:
        """Waits for something; says what was printed if it does not come."""
        deadline = time.monotonic() + patience
        while not holds():
            if time.monotonic() > deadline:
                printed = "\n---\n".join(self.output(i)[-3000:] for i in range(len(self.processes)))
                raise TimeoutError(f"Not after {patience} s:\n{printed}")
            time.sleep(0.02)

    def signal_at(self, step: int, number: int, kind: signal.Signals) -> None:
        """Sends a signal to one process as soon as the checkpoint of `step` is whole."""
        self.until((self.workdir / "checkpoints" / str(step)).exists)
        self.processes[number].send_signal(kind)

    def finish(self) -> None:
        """Waits until all have ended well."""
        codes = self.wait()
        printed = "\n---\n".join(self.output(i)[-3000:] for i in range(len(self.processes)))
        assert codes == [0] * len(codes), printed


def train(workdir: Path, *fields: str, processes: int = 2, devices: int = 2) -> None:
    """Runs to the end."""
    with Launch(workdir, *fields, processes=processes, devices=devices) as launch:
        launch.finish()


def same_bytes(first: Path, second: Path, names: Sequence[str]) -> None:
    """Two runs left the same files."""
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
