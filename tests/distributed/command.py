"""Runs `python -m experiments.train` as several processes on the loopback, each with simulated devices."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.train import run
from tests.compile_cache import WITHOUT
from tests.configurations import read_config
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


PAIR = ("--config.mesh.data=2", "--config.mesh.fsdp=-1")


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


def train_alone(workdir: Path) -> Path:
    """The run of `SIZES` on the one device of this process; returns its workdir."""
    config = read_config(ROOT / "configs" / "digits_mlp.py", "rigl")
    config.model.widths = (64,)
    for field in SIZES[2:]:
        name, value = field.removeprefix("--config.").split("=")
        config[name] = int(value)
    run(config, str(workdir), plots=False)
    return workdir


def _arrays(workdir: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(workdir / name) as arrays:
        return dict(arrays)


def same_masks(workdir: Path, alone: Path) -> None:
    """A run on several devices left the masks of one device, and its parameters but for the order of sums."""
    masks, wanted = _arrays(workdir, "masks.npz"), _arrays(alone, "masks.npz")
    assert masks.keys() == wanted.keys()
    for name, mask in wanted.items():
        np.testing.assert_array_equal(masks[name], mask, err_msg=name)
    params, wanted = _arrays(workdir, "params.npz"), _arrays(alone, "params.npz")
    for name, leaf in wanted.items():
        np.testing.assert_allclose(params[name], leaf, rtol=1e-3, atol=1e-5, err_msg=name)
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    assert sum(len(row["mask_changes"]) for row in rows) >= 3
    densities = [
        json.loads((path / "result.json").read_text())["density_by_layer"] for path in (workdir, alone)
    ]
    assert densities[0] == densities[1]


def only_one_wrote(workdir: Path, alone: Path) -> None:
    """Beside checkpoints a run of several processes left what a run of one leaves."""
    rows = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert rows == [6, 12, 18, 24]
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    left = {entry.name for entry in workdir.iterdir() if entry.suffix != ".png"}
    assert left == {entry.name for entry in alone.iterdir()}
    assert {entry.name for entry in (workdir / "records").iterdir()} == {"6.npz", "12.npz", "18.npz"}
