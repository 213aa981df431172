"""`python -m experiments.zoo`."""

from experiments import command
from experiments.zoo.command import main

if __name__ == "__main__":
    command.run_command(main)
