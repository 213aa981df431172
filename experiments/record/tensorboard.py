"""TensorBoard events beside the JSON lines, for those who watch their runs there."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np


@contextlib.contextmanager
def event_writer(directory: pathlib.Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Opens an event file under ``directory/tensorboard``, made at the first row.

    Args:
      directory: the run's.

    Yields:
      ``write(row)`` for rows of ``metrics.jsonl``: each number becomes a scalar at the row's step; of a
      population the mean, and each member's under its index.
    """
    writer = None

    def write(row: Mapping[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            from tensorboardX import SummaryWriter  # late: not every user of the library wants it

            # A resumed run takes some steps again: TensorBoard drops what an older file says of them.
            writer = SummaryWriter(str(directory / "tensorboard"), purge_step=row["step"])
        for name, value in row.items():
            if name in ("step", "mask_changes"):
                continue
            values = np.atleast_1d(value)
            writer.add_scalar(name, float(values.mean()), row["step"])
            if len(values) > 1:
                for i, one in enumerate(values):
                    writer.add_scalar(f"{name}/{i}", float(one), row["step"])
        writer.flush()

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
