"""What a run says while it trains: a live bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Without a terminal, this many lines a run.
LINES = 10


class ProgressBar:
    """Shows steps done, loss, accuracy, sparsity, steps/s and the time left.

    Args:
      steps: steps of the whole run.
      console: where to write; standard output by default.

    Example:
      >>> import io
      >>> out = io.StringIO()
      >>> with ProgressBar(10, Console(file=out)) as bar:
      ...     bar.update(10, loss=0.5, accuracy=0.9, sparsity=0.95)
      >>> "loss 0.500" in out.getvalue()
      True
    """

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.steps = steps
        self.printed, self.rate = 0, 0.0
        self.warm: tuple[int, float] | None = None  # steps and time when the first chunk was through
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
        )
        self.bar = Progress(*columns, console=self.console) if self.console.is_terminal else None
        self.task = self.bar.add_task("train", total=steps, note="compiling …") if self.bar else None

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def update(
        self, done: int, *, loss: float, accuracy: float, sparsity: float, bits_per_byte: float | None = None
    ) -> None:
        """Moves on to step `done`.

        Args:
          done: steps taken so far.
          loss: training loss of the last chunk.
          accuracy: test accuracy now.
          sparsity: share of zeros among the prunable weights now.
          bits_per_byte: of the test split now; of text runs.
        """
        now = time.perf_counter()
        # The first chunk compiles: its time says nothing about the rest.
        if self.warm is None:
            self.warm = done, now
        else:
            self.rate = (done - self.warm[0]) / (now - self.warm[1])
        bits = "" if bits_per_byte is None else f"{bits_per_byte:.3f} bits per byte · "
        note = f"loss {loss:.3f} · {bits}test accuracy {accuracy:.4f} · sparsity {sparsity:.4f}"
        if self.rate:
            note += f" · {self.rate:.0f} steps/s"
        if self.bar:
            self.bar.update(self.task, completed=done, note=note)
        elif done >= self.steps or done * LINES // self.steps > self.printed:
            self.printed = done * LINES // self.steps
            left = (
                f" · {(self.steps - done) / self.rate:.0f} s left" if self.rate and done < self.steps else ""
            )
            self.console.print(f"step {done}/{self.steps} · {note}{left}")
