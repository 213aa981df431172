"""One machine with several GPUs: one process that holds them all, or a process for each."""

import sys
from collections.abc import Sequence

from experiments.errors import LaunchError
from experiments.launch.names import at_least
from experiments.launch.plan import Plan
from experiments.launch.training import training_command


def machine_plan(arguments: Sequence[str], *, gpus: int = 0, processes: int = 1) -> Plan:
    """Runs on this machine.

    One process for all GPUs is the simplest and as fast; a process each is how clusters run, and reads data in
    parallel.

    Args:
      arguments: of `experiments.train`.
      gpus: the first so many; 0 for all that there are, of one process.
      processes: 1, or as many as `gpus`, or any number without GPUs.

    Returns:
      The plan.

    Raises:
      LaunchError: numbers that do not go together.

    Example:
      >>> machine_plan(["--workdir=runs/a"], gpus=2).commands[0][:2]
      ('env', 'CUDA_VISIBLE_DEVICES=0,1')
    """
    at_least("gpus", gpus, 0)
    at_least("processes", processes)
    if processes > 1:
        if gpus not in (0, processes):
            raise LaunchError(
                f"--processes is {processes} and --gpus {gpus}: one process holds all GPUs, or each holds one."
            )
        own = ("--gpus",) if gpus else ()
        start = (sys.executable, "-m", "experiments.launch.processes", f"--count={processes}", *own, "--")
        return Plan(((*start, *training_command(arguments, sys.executable)),))
    visible = ("env", f"CUDA_VISIBLE_DEVICES={','.join(map(str, range(gpus)))}") if gpus else ()
    return Plan(((*visible, *training_command(arguments, sys.executable)),))
