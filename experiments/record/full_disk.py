"""A disk that is full: one line that says what to do, and room kept for what a run ends with."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from experiments.errors import WorkdirError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# orbax and tensorstore pass the system's words on in errors of their own.
_WORDS = ("no space left on device", "disk quota exceeded", "resource_exhausted: error writing")
_RESERVE = ".reserve"


def is_full_disk(error: BaseException | None) -> bool:
    """Tells whether an error, or one that it came from, is a full disk or a quota that ran out.

    Args:
      error: any.

    Returns:
      True for a full disk.

    Example:
      >>> is_full_disk(OSError(errno.ENOSPC, "No space left on device")), is_full_disk(ValueError("no"))
      (True, False)
    """
    while error is not None:
        words = str(error).lower()
        if getattr(error, "errno", None) in _FULL or any(each in words for each in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def told_of_a_full_disk(directory: pathlib.Path) -> Iterator[None]:
    """Turns a full disk inside the block into a typed error.

    Args:
      directory: of the run.

    Yields:
      Nothing.

    Raises:
      WorkdirError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, WorkdirError) or not is_full_disk(error):
            raise
        raise WorkdirError(
            f"The disk of {directory} is full, or its quota is used up: free space and run the same command again. It "
            "goes on from the last whole checkpoint."
        ) from error


def bytes_at_the_end(states: Any, steps: int) -> int:
    """Room for the arrays that a run ends with: parameters, masks, and what was measured at each step.

    Args:
      states: training states, of arrays or shapes.
      steps: of the run.

    Returns:
      Bytes, rather more than needed.
    """
    import jax  # late: commands that only look at workdirs do without

    leaves = jax.tree.leaves([(state.params, state.batch_stats) for state in states])
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return weights + sum(leaf.size for leaf in leaves) + 128 * steps + (1 << 16)


def reserve(directory: pathlib.Path, size: int) -> None:
    """Takes room on the disk, to be given back by `release` when it is needed.

    Args:
      directory: of the run.
      size: in bytes.

    Raises:
      OSError: there is not so much.
    """
    with open(directory / _RESERVE, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.write(b"\0" * size)


def release(directory: pathlib.Path) -> None:
    """Gives back what `reserve` took."""
    (directory / _RESERVE).unlink(missing_ok=True)
