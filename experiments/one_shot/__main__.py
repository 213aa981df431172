"""`python -m experiments.one_shot`."""

from experiments import command
from experiments.one_shot.command import main

if __name__ == "__main__":
    command.run_command(main)
