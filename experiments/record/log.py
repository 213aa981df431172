"""What a run has on disk while it goes on: metrics, records of every step, events, checkpoints; and how it resumes."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from experiments.data.split import Split
from experiments.devices.hosts import same_on_all, together
from experiments.errors import CheckpointError
from experiments.record import files
from experiments.record.checkpoint import open_checkpoints, restore_newest, save_checkpoint
from experiments.record.history import Record, chunk_row, join_records
from experiments.record.tensorboard import event_writer
from experiments.run.mask_meter import MaskMeter
from experiments.run.state import TrainState


class RunLog:
    """The files of one run. Only the first of several hosts writes them; all of them write checkpoints.

    Records go to disk just before the checkpoint that they lead up to, so a checkpoint finds its records
    whenever the run is killed.

    Attributes:
      manager: orbax's; None where no checkpoints are written.
      leads: whether this process writes the other files.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        manager: Any | None,
        every: int,
        events: Callable[[Mapping], None] | None,
    ) -> None:
        self.manager, self.leads = manager, events is not None
        self._directory, self._every, self._events = directory, every, events
        self._saved, self._fresh = 0, []
        self._old: list[Record] = []

    def resume(self, states: tuple[TrainState, ...], source: Any) -> tuple[TrainState, ...]:
        """Goes back to the newest checkpoint that is whole, and forgets whatever came after it.

        Args:
          states: as they are before the first step; they say how the restored ones lie on the devices.
          source: the training data; a stream is put where it was.

        Returns:
          The states to go on from.

        Raises:
          CheckpointError: no checkpoint of several can be used, or its records are missing.
        """
        restored = self.restore(states)
        step = int(restored[0].step)
        self._saved, self._fresh = step, []
        if not same_on_all(step):
            raise CheckpointError(
                f"This host went back to step {step}, others to another: {self._directory} is damaged, or not the "
                "same directory on all hosts."
            )
        with together():
            if self.leads:
                _remove_later(self._directory / "records", step)
                _cut_lines(self._directory / "metrics.jsonl", step)
            self._old = _read_records(self._directory / "records", step)
            if step and not isinstance(source, Split):
                source.set_state(_read_position(self._position(step)))
        return restored

    def restore(self, states: tuple[TrainState, ...]) -> tuple[TrainState, ...]:
        """Reads the newest checkpoint that is whole and leaves the other files as they are.

        Args:
          states: as they are before the first step.

        Returns:
          The restored ones; `states` where there is no checkpoint.

        Raises:
          CheckpointError: no checkpoint of several can be used.
        """
        found = None if self.manager is None else restore_newest(self.manager, states)
        return states if found is None else found.tree

    def add(
        self, rows: Record, meter: MaskMeter, kept: np.ndarray, seconds: float, *, text: bool = False
    ) -> dict[str, Any]:
        """Logs a chunk and the evaluation after it.

        Args:
          rows: what it measured.
          meter: knows the layers' sizes.
          kept: (members, layers), weights kept after it.
          seconds: that its steps took.
          text: whether the targets are bytes of text.

        Returns:
          The row of ``metrics.jsonl``.
        """
        row = chunk_row(meter, rows, kept, seconds, text=text)
        self._fresh.append(rows)
        if self._events is not None:
            files.append_json_line(self._directory / "metrics.jsonl", row)
            self._events(row)
        return row

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after `step` steps."""
        return bool(self._every) and step // self._every > self._saved // self._every

    def save(self, states: tuple[TrainState, ...], source: Any) -> None:
        """Writes a checkpoint."""
        if self.manager is None:
            return
        step = int(states[0].step)
        if self.leads and self._fresh:
            (self._directory / "records").mkdir(exist_ok=True)
            rows = join_records(self._fresh)
            files.write_arrays(self._directory / "records" / f"{step}.npz", rows._asdict())
            self._old, self._fresh = [*self._old, rows], []
        if not isinstance(source, Split):
            (self._directory / "records").mkdir(exist_ok=True)
            files.write_json(self._position(step), source.get_state())
        save_checkpoint(self.manager, step, states)
        self._saved = step

    def whole(self) -> Record:
        """The record of the whole run so far."""
        return join_records([*self._old, *self._fresh])

    def _position(self, step: int) -> pathlib.Path:
        """Where this process keeps how far its stream was read: each of several reads its own share."""
        return self._directory / "records" / f"stream_{step}_{jax.process_index()}.json"


@contextlib.contextmanager
def open_log(directory: pathlib.Path, *, keep: int, every: int) -> Iterator[RunLog]:
    """Opens the files of a run.

    Args:
      directory: its working directory.
      keep: how many checkpoints to keep.
      every: steps between two checkpoints; 0 writes none.

    Yields:
      The log.
    """
    leads = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        manager = None
        if every:
            manager = stack.enter_context(open_checkpoints(directory / "checkpoints", keep=keep))
        events = stack.enter_context(event_writer(directory)) if leads else None
        yield RunLog(directory, manager, every, events)


def _remove_later(directory: pathlib.Path, step: int) -> None:
    """Removes the records of steps that will be taken again."""
    for path in directory.glob("[0-9]*.npz"):
        if int(path.stem) > step:
            path.unlink()


def _read_records(directory: pathlib.Path, step: int) -> list[Record]:
    """The records up to a step, in order."""
    found = sorted((int(path.stem), path) for path in directory.glob("[0-9]*.npz"))
    records = []
    for end, path in found:
        if end <= step:
            try:
                with np.load(path) as arrays:
                    records.append(Record(**arrays))
            except Exception as error:  # zip, NumPy and the file system each raise their own
                raise CheckpointError(f"{path} cannot be read ({error}): remove the workdir.") from error
    if sum(len(rows.loss) for rows in records) != step:
        raise CheckpointError(
            f"{directory} lacks records of the {step} steps before the checkpoint: remove the workdir."
        )
    return records


def _read_position(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): remove the workdir.") from error


def _cut_lines(path: pathlib.Path, step: int) -> None:
    """Keeps the rows up to a step; a line that a kill cut short is dropped."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            if json.loads(line)["step"] <= step:
                kept.append(line)
    files.write_bytes(path, "".join(f"{line}\n" for line in kept).encode())
