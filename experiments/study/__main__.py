"""`python -m experiments.study`."""

from experiments import command
from experiments.study.command import main

if __name__ == "__main__":
    command.run_command(main)
