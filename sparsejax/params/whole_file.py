"""A file that is whole or as it was before: written under another name, which takes its own when all is on the disk."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_TEMPORARY = ".{}.{}.tmp"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing so that no reader, and no kill, ever sees half of it.

    Args:
      path: where it goes; its folder exists.

    Yields:
      The open file.

    Raises:
      OSError: the disk refuses; nothing is left behind, and a file that was there stays.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "a"
      >>> with whole_file(path) as file:
      ...     _ = file.write(b"whole")
      >>> path.read_bytes()
      b'whole'
    """
    # Opened by its name, not by `tempfile`, whose files nobody else may read.
    temporary = path.with_name(_TEMPORARY.format(path.name, os.getpid()))
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name too
    finally:
        os.close(folder)


def unfinished(path: Path) -> list[Path]:
    """What kills in the middle of `whole_file` have left beside a file.

    Args:
      path: the file; its name may be a pattern.

    Returns:
      The files; whoever may be sure that nobody else is writing removes them.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "a"
      >>> _ = path.with_name(".a.12.tmp").write_bytes(b"ha")
      >>> [left.name for left in unfinished(path)]
      ['.a.12.tmp']
    """
    return sorted(path.parent.glob(_TEMPORARY.format(path.name, "*")))
