"""What the tests of the engines share: jobs, their processes, and what they left."""

import contextlib
import os
import pathlib
import signal
import sys
import threading
import time

from experiments.sweep import engines

_JOB = pathlib.Path(__file__).with_name("job.py")
DEADLINE = 300


def make_job(root, name, steps, status=None):
    """A job of so many steps of 20 ms."""
    arguments = [sys.executable, "-I", "-S", str(_JOB), str(root / name), str(steps)]
    return engines.Job(name, tuple(arguments + ([str(status)] if status is not None else [])), root / name)


def options(root, **changes):
    """Two workers, two retries."""
    base = engines.Options(2, 2, "", 1.0, 0.0, 60, "local", root)
    return base._replace(**changes)


def steps(workdir):
    """The steps that were taken, in order."""
    with contextlib.suppress(FileNotFoundError):
        return [int(line) for line in (workdir / "steps").read_text().split()]
    return []


def starts(workdir):
    """How often the job was started."""
    return len((workdir / "starts").read_text().split())


def process_of(workdir):
    """The process of a run, by the workdir in its command line; None when there is none."""
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            if any(word in (f"--workdir={workdir}".encode(), str(workdir).encode()) for word in words):
                return int(place.name)
    return None


def parent_of(pid):
    """The worker that waits for a process."""
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def on_the_way(condition, act):
    """Does something once, in a thread, as soon as a condition holds; join it to learn that it was done."""
    failed = []

    def wait():
        deadline = time.monotonic() + DEADLINE
        while not condition():
            if time.monotonic() > deadline:
                failed.append("the moment never came")
                return
            time.sleep(0.002)
        try:
            act()
        except Exception as error:
            failed.append(repr(error))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()

    def join():
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert not failed, failed

    return join


def kill(pid, number=signal.SIGKILL):
    """Sends a signal."""
    assert pid is not None
    os.kill(pid, number)
