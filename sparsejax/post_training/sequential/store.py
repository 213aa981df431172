"""What a calibration leaves on disk to go on after a kill: finished stages and running sums, written atomically."""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import CalibrationError
from sparsejax.params.whole_file import unfinished, whole_file
from sparsejax.typing import Array

_MANIFEST, _RUNNING, _STAGE = "calibration.json", "running.npz", "stage_{:05d}.npz"
# What zipfile, NumPy and JSON make of a file that is absent or damaged, wherever the damage lies.
_UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile)


def fingerprint(*parts: Any) -> str:
    """A hash of pytrees of arrays, texts and numbers, bit by bit.

    Args:
      *parts: pytrees.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for part in parts:
        leaves, structure = jax.tree.flatten(part)
        digest.update(str(structure).encode())
        for leaf in leaves:
            if isinstance(leaf, str | int | float | bool | None):
                digest.update(repr(leaf).encode())
                continue
            if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            array = np.ascontiguousarray(np.asarray(leaf))
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


class Store:
    """A folder with the state of one calibration."""

    def __init__(self, workdir: str | os.PathLike[str], wanted: str) -> None:
        """Opens or makes the folder.

        Args:
          workdir: the folder.
          wanted: the fingerprint of what is to be calibrated.

        Raises:
          CalibrationError: the folder holds another calibration, or cannot be written.
        """
        self._folder = Path(workdir)
        self._say = f"workdir={str(workdir)!r}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CalibrationError(f"{self._say} cannot be made or written: {error}.") from error
        manifest = self._folder / _MANIFEST
        if not manifest.exists():
            self._write(manifest.name, lambda file: file.write(json.dumps({"hash": wanted}).encode()))
        try:
            found = json.loads(manifest.read_text())["hash"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CalibrationError(f"{self._say}: {manifest.name} cannot be read: {error!r}.") from error
        if found != wanted:
            raise CalibrationError(
                f"{self._say} holds the calibration {found[:12]}…, and this one is {wanted[:12]}…: parameters, "
                "batches, function or options differ. Give the same again to go on, or another folder."
            )
        for name in (_MANIFEST, _RUNNING, "stage_*.npz"):
            for left in unfinished(self._folder / name):
                left.unlink(missing_ok=True)

    def save_stage(self, number: int, arrays: Mapping[str, Array], notes: Any) -> None:
        """Writes down a finished stage; the running sums are then no longer needed.

        Args:
          number: the stage.
          arrays: arrays by name.
          notes: anything that JSON can hold.
        """
        self._save(_STAGE.format(number), arrays, notes)
        (self._folder / _RUNNING).unlink(missing_ok=True)

    def stage(self, number: int) -> tuple[dict[str, np.ndarray], Any] | None:
        """Reads a finished stage; None where there is none, or its file was damaged.

        Args:
          number: the stage.

        Returns:
          ``(arrays, notes)``.
        """
        return self._load(_STAGE.format(number))

    def save_running(self, number: int, batches: int, arrays: Mapping[str, Array], notes: Any) -> None:
        """Writes down the sums of a stage over its first batches.

        Args:
          number: the stage.
          batches: how many are in the sums.
          arrays: the sums.
          notes: anything that JSON can hold.
        """
        self._save(_RUNNING, arrays, {"stage": number, "batches": batches, "notes": notes})

    def running(self, number: int) -> tuple[int, dict[str, np.ndarray], Any] | None:
        """Reads the sums of a stage.

        Args:
          number: the stage.

        Returns:
          ``(batches, arrays, notes)``; None where there are none of that stage.
        """
        found = self._load(_RUNNING)
        if found is None or found[1]["stage"] != number:
            return None
        return found[1]["batches"], found[0], found[1]["notes"]

    def _save(self, name: str, arrays: Mapping[str, Array], notes: Any) -> None:
        host = {key: np.asarray(array) for key, array in arrays.items()}
        about = {key: (str(array.dtype), array.shape) for key, array in host.items()}
        # As bytes: NumPy's files do not know bfloat16.
        data = {key: np.ascontiguousarray(a).reshape(-1).view(np.uint8) for key, a in host.items()}
        header = np.frombuffer(json.dumps([about, notes]).encode(), np.uint8)
        self._write(name, lambda file: np.savez(file, header=header, **data))

    def _load(self, name: str) -> tuple[dict[str, np.ndarray], Any] | None:
        try:
            with open(self._folder / name, "rb") as opened, np.load(opened) as file:
                about, notes = json.loads(file["header"].tobytes())
                arrays = {
                    key: file[key].view(jnp.dtype(dtype)).reshape(shape)
                    for key, (dtype, shape) in about.items()
                }
        except _UNREADABLE:
            return None
        return arrays, notes

    def _write(self, name: str, write: Any) -> None:
        try:
            with whole_file(self._folder / name) as file:
                write(file)
        except OSError as error:
            raise CalibrationError(
                f"{self._say}: {name} cannot be written ({error}). What was finished before is there: free some "
                "space and call again to go on."
            ) from error
