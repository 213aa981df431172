"""How far a benchmark is: one line on a terminal, nothing elsewhere; the GPU machine has no rich."""

import sys
import time
from typing import TextIO

# A line is drawn anew at most so often, so that drawing costs the measurement nothing.
_SECONDS = 0.25


class Line:
    """One line of standard error, drawn over itself.

    Args:
      stream: where to write; standard error by default. Nothing is written where it is no terminal.

    Example:
      >>> import io
      >>> with Line(io.StringIO()) as line:
      ...     line.show("compiling sort (1 of 3)")
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self.drawn = 0.0

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *failure: object) -> None:
        if self.live:
            self.stream.write("\r\x1b[2K")  # nothing of it stays above the table
            self.stream.flush()

    def show(self, text: str, *, often: bool = False) -> None:
        """Draws the line anew.

        Args:
          text: cut at 79 columns.
          often: whether it may be left out, as the next one comes soon.
        """
        now = time.perf_counter()
        if not self.live or (often and now - self.drawn < _SECONDS):
            return
        self.drawn = now
        self.stream.write(f"\r\x1b[2K{text[:79]}")
        self.stream.flush()
