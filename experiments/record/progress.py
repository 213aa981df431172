"""How far a command is: a bar on a terminal, a line now and then elsewhere; what is left comes first."""

import contextlib
import io
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

#: Without a terminal, this many lines a run.
LINES = 10
#: Without a terminal, a command of many runs says how far it is when so many seconds have passed.
QUIET_SECONDS = 30.0
# A run that took less had been finished before: it says nothing of how long the others take.
_STORED_SECONDS = 0.5


def fit(parts: Sequence[str], width: int) -> str:
    """Joins as many parts as a line holds; the first always stays.

    Args:
      parts: texts, what matters most first; empty ones are left out.
      width: columns.

    Returns:
      The line.

    Example:
      >>> fit(["step 2/9", "3 s left", "loss 0.5"], 20), fit(["step 2/9", "3 s left"], 3)
      ('step 2/9 · 3 s left', 'step 2/9')
    """
    line, *rest = [part for part in parts if part]
    for part in rest:
        if len(longer := f"{line} · {part}") > width:
            break
        line = longer
    return line


def speed(rate: float) -> str:
    """Says how many steps a second are taken, to two decimals where they are few.

    Example:
      >>> speed(693.2), speed(0.359)
      ('693 steps/s', '0.36 steps/s')
    """
    return f"{rate:.0f} steps/s" if rate >= 10 else f"{rate:.2f} steps/s"


def duration(seconds: float) -> str:
    """Seconds in words of the size that matters.

    Args:
      seconds: at least 0.

    Returns:
      A text of at most eight characters up to a hundred hours.

    Example:
      >>> duration(6.2), duration(200), duration(7_500)
      ('7 s', '3 min', '2 h 05')
    """
    if seconds < 100:
        return f"{math.ceil(seconds)} s"  # never 0 while something is left
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d}"


def silent() -> Console:
    """A console for runs whose lines nobody needs, as their command says how far it is."""
    return Console(file=io.StringIO())


class _Display:
    """A line with a bar that is drawn in place on a terminal; elsewhere lines, when they are asked for."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.width = min(console.width, 120)
        bar = max(0, min(20, self.width - 60))  # gives way before the words do
        columns = [TextColumn("{task.description}", table_column=Column(no_wrap=True))]
        columns += [BarColumn(bar_width=bar)] if bar else []
        self.bar = Progress(*columns, console=console) if console.is_terminal else None
        self.room = self.width - bar - 1 if self.bar else self.width
        self.task = self.bar.add_task("", total=1.0) if self.bar else None

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def show(self, share: float, parts: Sequence[str], *, line: bool) -> None:
        """Draws the bar at `share` of its length; without a terminal prints if `line` is asked for."""
        text = fit(parts, self.room)
        if self.bar:
            self.bar.update(self.task, completed=share, description=text)
        elif line:
            self.console.print(text)


class ProgressBar(_Display):
    """Shows steps done, the time left, loss, accuracy, sparsity and steps/s of one run.

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
        super().__init__(console or Console(file=sys.stdout, highlight=False, soft_wrap=True))
        self.steps = steps
        self.printed, self.rate = 0, 0.0
        self.warm: tuple[int, float] | None = None  # steps and time when the first chunk was through

    def __enter__(self) -> Self:
        super().__enter__()
        self.show(0.0, ["compiling the program of a training step …"], line=True)
        return self

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
        ahead = self.rate and done < self.steps
        parts = [
            f"step {done}/{self.steps}",
            f"{duration((self.steps - done) / self.rate)} left" if ahead else "",
            "" if bits_per_byte is None else f"{bits_per_byte:.3f} bits per byte",
            f"accuracy {accuracy:.4f}",
            f"loss {loss:.3f}",
            f"sparsity {sparsity:.4f}",
            speed(self.rate) if self.rate else "",
        ]
        due = done >= self.steps or done * LINES // self.steps > self.printed
        self.printed = done * LINES // self.steps if due else self.printed
        self.show(done / self.steps, parts, line=due)


class Overall(_Display):
    """Shows how many runs of a command are done, the time left, and how far the present one is.

    Args:
      parts: how many runs there are.
      console: where to write.
      unit: what a part is called.

    Example:
      >>> import io
      >>> out = io.StringIO()
      >>> with Overall(2, Console(file=out)) as overall, overall.part("rigl") as bar:
      ...     with bar(100) as inner:
      ...         inner.update(50, loss=0.5, accuracy=0.9, sparsity=0.95)
      >>> out.getvalue()
      'run 1/2 · rigl\\n'
    """

    def __init__(self, parts: int, console: Console, unit: str = "run") -> None:
        super().__init__(console)
        self.parts, self.unit, self.done = parts, unit, 0
        self.spent, self.timed = 0.0, 0  # seconds, and parts, that were not stored before
        self.said = time.perf_counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[Callable[[int], "PartBar"]]:
        """One run of the command, done when the block ends.

        Args:
          name: what it is.

        Yields:
          ``steps -> bar``, what `experiments.train.run` takes as `bar`.
        """
        begun = time.perf_counter()
        self.say(name, begun, line=True)
        yield lambda steps: PartBar(self, name, steps, begun)
        self.done += 1
        if (took := time.perf_counter() - begun) > _STORED_SECONDS:
            self.spent, self.timed = self.spent + took, self.timed + 1

    def say(self, name: str, begun: float, share: float = 0.0, detail: str = "", *, line: bool) -> None:
        """Draws the line anew.

        Args:
          name: of the present part.
          begun: when it began, by `time.perf_counter`.
          share: of it that is done, in [0, 1].
          detail: how far it is, in words.
          line: whether a line is due where there is no terminal.
        """
        now = time.perf_counter()
        self.said = now if line else self.said
        through = self.timed + share
        each = (self.spent + (now - begun) * (share > 0)) / through if through else 0.0
        left = each * (self.parts - self.done - share)
        parts = [
            f"{self.unit} {min(self.done + 1, self.parts)}/{self.parts}",
            f"{duration(left)} left" if left else "",
            name,
            detail,
        ]
        self.show((self.done + share) / max(self.parts, 1), parts, line=line)


class PartBar:
    """The bar of one run inside an `Overall`; takes what a `ProgressBar` takes.

    Args:
      overall: the bar of the whole command.
      name: of the run.
      steps: of the run.
      begun: when it began, by `time.perf_counter`.
    """

    def __init__(self, overall: Overall, name: str, steps: int, begun: float) -> None:
        self.overall, self.name, self.steps, self.begun = overall, name, steps, begun

    def __enter__(self) -> Self:
        self.overall.say(self.name, self.begun, detail="compiling", line=False)
        return self

    def __exit__(self, *failure: object) -> None:
        pass  # the line is the command's, not the run's

    def update(
        self, done: int, *, loss: float, accuracy: float, sparsity: float, bits_per_byte: float | None = None
    ) -> None:
        """Moves on to step `done`; arguments as those of `ProgressBar.update`."""
        del loss, sparsity
        metric = f"accuracy {accuracy:.4f}" if bits_per_byte is None else f"{bits_per_byte:.3f} bits per byte"
        detail = f"step {done}/{self.steps} · {metric}"
        due = time.perf_counter() - self.overall.said > QUIET_SECONDS
        self.overall.say(self.name, self.begun, done / self.steps, detail, line=due)
