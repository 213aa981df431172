"""The peer of the training comparison as a process that is asked for one step after the other, between ours."""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
from typing import Any

import numpy as np

#: The Python that has the peer (``pip install sparselab torch``); without it its rows are left out, with a note.
PEER_PYTHON = "SPARSEJAX_PEER_PYTHON"
_SCRIPT = pathlib.Path(__file__).with_name("kernels_peer.py")


class PeerError(RuntimeError):
    """The peer ended before it was asked to; its last line says why."""


class Peer:
    """Two models in PyTorch, dense and with sparselab's layers, that train on the batches they are given.

    Args:
      python: a Python that has torch and sparselab.
      size: a key of `kernels_peer.SIZES`.
      batches: uint8 (steps, examples, tokens + 1).
    """

    def __init__(self, python: str, size: str, batches: np.ndarray) -> None:
        self._command, self._batches = [python, str(_SCRIPT), size], batches
        self.models: list[str] = []

    def __enter__(self) -> "Peer":
        self._stack = contextlib.ExitStack()
        folder = pathlib.Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "tokens").write_bytes(np.ascontiguousarray(self._batches, np.uint8).tobytes())
        self._errors = self._stack.enter_context((folder / "errors").open("w+", encoding="utf-8"))
        # One thread, as one core is what ours are given.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = self._stack.enter_context(
            subprocess.Popen(
                [*self._command, str(folder / "tokens")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
                env={**os.environ, **threads},
            )
        )  # fmt: skip
        self._stack.callback(self._process.kill)
        try:
            self.models = self._answer()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def step(self) -> dict[str, tuple[float, float]]:
        """Trains each model for a step; seconds and loss by model."""
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said is read below
        return {name: tuple(pair) for name, pair in self._answer().items()}

    def memory(self) -> dict[str, int]:
        """Ends the training; bytes of parameters, gradients and moments by model."""
        self._process.stdin.close()
        return self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise PeerError((self._errors.read().strip().splitlines() or ["no reason given"])[-1])
        return json.loads(line)
