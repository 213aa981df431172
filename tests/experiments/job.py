"""A process that behaves as a training run does, without its imports: python job.py WORKDIR STEPS [STATUS].

It holds its workdir's lock, goes on from the steps it finds, leaves a checkpoint on SIGTERM, and finishes once.
"""

import fcntl
import pathlib
import signal
import sys
import time


def main():
    """Takes a step every 20 ms; each is one line, so that none can be lost or taken twice unseen."""
    workdir, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / "starts", "a") as file:
        file.write("start\n")
    lock = open(workdir / ".lock", "w")  # noqa: SIM115 (for the life of the process)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(2)  # as training does: another process runs there
    if (workdir / "result.json").exists():
        sys.exit(0)
    (workdir / "steps").touch()
    for step in range(len((workdir / "steps").read_text().split()), steps):
        time.sleep(0.02)
        with open(workdir / "steps", "a") as file:
            file.write(f"{step}\n")
    if len(sys.argv) > 3:
        sys.exit(int(sys.argv[3]))
    (workdir / "result.json").write_text("{}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    main()
