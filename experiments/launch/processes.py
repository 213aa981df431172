"""Starts one command as several processes of one run on this machine, and ends all of them when one fails.

python -m experiments.launch.processes --count=4 --gpus -- python -m experiments.train --config=… --workdir=…
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import IO

from experiments.errors import LaunchError

#: Seconds that the others have to end by themselves once one has failed: JAX's own heartbeat, and some more.
PATIENCE = 90


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the status of the process that failed first, or 0."""
    parser = argparse.ArgumentParser(prog="python -m experiments.launch.processes", description=__doc__)
    parser.add_argument("--count", type=int, required=True, help="processes")
    parser.add_argument("--gpus", action="store_true", help="each sees the GPU of its number alone")
    parser.add_argument("command", nargs="+", help="what to run, after two dashes")
    arguments = parser.parse_args(argv)
    port = free_port()
    places = [place(i, arguments.count, f"127.0.0.1:{port}", arguments.gpus) for i in range(arguments.count)]
    return run_all(arguments.command, places)


def place(number: int, count: int, coordinator: str, gpus: bool = False) -> dict[str, str]:
    """Says in environment variables which process of the run this is; see `experiments.devices.hosts`.

    Args:
      number: of the process.
      count: of all.
      coordinator: ``host:port`` that the first one listens at.
      gpus: whether it sees the GPU of its number alone.

    Returns:
      The variables.

    Example:
      >>> place(1, 2, "127.0.0.1:9000")["JAX_PROCESS_ID"]
      '1'
    """
    own = {"CUDA_VISIBLE_DEVICES": str(number)} if gpus else {}
    return own | {
        "JAX_COORDINATOR_ADDRESS": coordinator,
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(number),
    }


def run_all(command: Sequence[str], places: Sequence[Mapping[str, str]], patience: float = PATIENCE) -> int:
    """Runs a command once in each place, each line of output led by the place's number, and waits for all.

    SIGTERM and SIGINT are passed on. Once one has failed the others end by themselves, or after `patience` seconds
    are killed.

    Args:
      command: the same for all.
      places: environment variables of each.
      patience: seconds.

    Returns:
      The status of the process that failed first, as a shell tells it; 0 where none did.

    Raises:
      LaunchError: the program cannot be started.

    Example:
      >>> run_all(["sh", "-c", "exit $N"], [{"N": "0"}, {"N": "3"}])
      3
    """
    try:
        processes = [_start(command, where) for where in places]
    except OSError as error:
        raise LaunchError(f"{command[0]!r} cannot be started: {error.strerror}.") from error
    copiers = [threading.Thread(target=_copy, args=(p.stdout, i)) for i, p in enumerate(processes)]
    for copier in copiers:
        copier.start()
    try:
        with _passed_on(processes):
            return _wait(processes, patience)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for copier in copiers:
            copier.join()


@contextlib.contextmanager
def _passed_on(processes: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    """Passes SIGTERM and SIGINT on, where this is the thread that may watch them."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    watched = (signal.SIGTERM, signal.SIGINT)
    main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, pass_on) for number in watched if main_thread}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(command: Sequence[str], where: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(command), env=os.environ | where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _copy(lines: IO[str], number: int) -> None:
    with lines:
        for line in lines:
            sys.stdout.write(f"{number}: {line}")
            sys.stdout.flush()


def _wait(processes: Sequence[subprocess.Popen[str]], patience: float) -> int:
    """Waits for all; returns the first failure, as a shell tells it."""
    failed, deadline = 0, float("inf")
    while time.monotonic() < deadline:
        statuses = [process.poll() for process in processes]
        if not failed and any(statuses):
            failed, deadline = next(filter(None, statuses)), time.monotonic() + patience
        if None not in statuses:
            break
        time.sleep(0.05)
    return failed if failed >= 0 else 128 - failed


def free_port() -> int:
    """Finds a port of the loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
