"""GPU clusters under SLURM: a batch script whose `srun` starts one process a GPU, and that is queued again."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from experiments.command import STOPPED
from experiments.launch.names import at_least, label, one_line, time_limit
from experiments.launch.plan import Plan
from experiments.launch.training import shell_command


class Job(NamedTuple):
    """A batch job.

    Attributes:
      name: of it.
      nodes: machines.
      gpus: of each; as many processes run there.
      time: limit, as SLURM writes it.
      cpus: cores of each process.
      partition: empty for the cluster's own.
      account: likewise.
      warning: seconds before the limit at which the run is told to write a checkpoint; a chunk must fit in.
      setup: a line of shell before the run, such as ``source .venv/bin/activate``.
      extra: further options of sbatch, such as ``--constraint=h100``.
    """

    name: str
    nodes: int
    gpus: int
    time: str
    cpus: int = 8
    partition: str = ""
    account: str = ""
    warning: int = 180
    setup: str = ""
    extra: tuple[str, ...] = ()


def slurm_plan(job: Job, arguments: Sequence[str], file: str = "") -> Plan:
    """Submits a run.

    Args:
      job: the batch job.
      arguments: of `experiments.train`; the workdir is seen by all nodes.
      file: of the script; empty for ``NAME.sbatch``.

    Returns:
      The plan.

    Raises:
      LaunchError: an option that sbatch would not take.
    """
    path = one_line("file", file) if file else f"{job.name}.sbatch"
    return Plan((("sbatch", path),), files=((path, batch_script(job, arguments)),))


def batch_script(job: Job, arguments: Sequence[str]) -> str:
    """Writes the script.

    All processes of a node see all of its GPUs (``--gpu-bind=none``): JAX takes for each the one of its local number,
    and would find none where SLURM had already shown each process its own. SIGTERM reaches the processes, not the
    script, `warning` seconds before the limit and at a preemption; they write a checkpoint and end with status 143,
    and the script has itself queued again.

    Args:
      job: the batch job.
      arguments: of `experiments.train`.

    Returns:
      The text.

    Raises:
      LaunchError: an option that sbatch would not take.
    """
    options = "\n".join(f"#SBATCH {option}" for option in _options(job))
    setup = f"{one_line('setup', job.setup)}\n" if job.setup else ""
    return f"""#!/bin/bash
{options}
set -u
{setup}srun --kill-on-bad-exit=1 --gpu-bind=none {shell_command(arguments)}
status=$?
if [ "$status" -eq {STOPPED} ]; then  # a checkpoint was written
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def _options(job: Job) -> list[str]:
    options = [
        f"--job-name={label('name', job.name)}",
        f"--nodes={at_least('nodes', job.nodes)}",
        f"--ntasks-per-node={at_least('gpus', job.gpus)}",
        f"--gpus-per-node={job.gpus}",
        f"--cpus-per-task={at_least('cpus', job.cpus)}",
        f"--time={time_limit('time', job.time)}",
        "--requeue",
        f"--signal=TERM@{at_least('warning', job.warning)}",
        "--open-mode=append",
        f"--output={job.name}-%j.log",
    ]
    options += [f"--{name}={one_line(name, value)}" for name, value in _given(job)]
    return options + [shlex.quote(one_line("extra", option)) for option in job.extra]


def _given(job: Job) -> list[tuple[str, str]]:
    return [(name, value) for name in ("partition", "account") if (value := getattr(job, name))]
