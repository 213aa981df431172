"""Stopping when asked: SIGTERM turns into a checkpoint at the next chunk's end, on one host or on many."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

import jax


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """Watches for SIGTERM while the block runs.

    Under `jax.distributed` its service is asked: all hosts stop after the same step, although only one of them
    was told.

    Yields:
      ``requested(step) -> bool``, to be asked with the number of steps taken, by all hosts alike.

    Example:
      >>> with stop_requests() as requested:
      ...     requested(0)
      False
    """
    if jax.distributed.is_initialized():
        yield _together()
        return
    told = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal told
        del number, frame
        told = True

    try:
        before = signal.signal(signal.SIGTERM, note)
    except ValueError:  # only the main thread may watch signals
        yield lambda step: False
        return
    try:
        yield lambda step: told
    finally:
        signal.signal(signal.SIGTERM, before)


def _together() -> Callable[[int], bool]:
    from jax.experimental import multihost_utils

    asked = 0

    def requested(step: int) -> bool:
        # The service says yes to one number only: that after the largest which any host has asked about when
        # the signal came. A chunk asks about each of its steps, or it would pass that number by; and about
        # steps, as orbax's own question, at each save, is.
        nonlocal asked
        numbers, asked = range(asked + 1, step + 1), step
        return any(multihost_utils.reached_preemption_sync_point(number) for number in numbers)

    return requested
