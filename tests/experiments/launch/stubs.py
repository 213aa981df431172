"""Stand-ins for SLURM's programs, which start real processes on the loopback: what they do is what SLURM documents."""

import os
import sys

#: `sbatch FILE`: runs the script as a job of its own, once; `scontrol requeue` leaves a note.
SBATCH = """#!/bin/bash
export SLURM_JOB_ID=$$ SLURM_JOB_NUM_NODES=1
for word in $(sed -n 's/^#SBATCH --ntasks-per-node=//p' "$1"); do export SLURM_NTASKS_PER_NODE=$word; done
exec bash "$1"
"""
SCONTROL = """#!/bin/bash
echo "$*" >> "$SLURM_NOTES"
"""
#: `srun OPTIONS COMMAND`: as many tasks as the job has, each with its number in the environment.
SRUN = """#!{python}
import os, signal, subprocess, sys
words = sys.argv[1:]
while words and words[0].startswith("--"):
    words.pop(0)
count = int(os.environ["SLURM_NTASKS_PER_NODE"]) * int(os.environ["SLURM_JOB_NUM_NODES"])
shared = {{"SLURM_NTASKS": str(count), "SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_NODELIST": "localhost",
          "SLURM_STEP_NUM_NODES": "1"}}
tasks = [subprocess.Popen(words, env=os.environ | shared | {{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}})
         for i in range(count)]
signal.signal(signal.SIGTERM, lambda number, frame: [task.send_signal(number) for task in tasks])
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""


def install(folder):
    """Puts the stand-ins first on a path; returns the environment that finds them, and Python as `python`."""
    texts = {"sbatch": SBATCH, "scontrol": SCONTROL, "srun": SRUN.format(python=sys.executable)}
    texts["python"] = f'#!/bin/bash\nexec {sys.executable} "$@"\n'
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_NOTES": str(folder / "requeued")}
