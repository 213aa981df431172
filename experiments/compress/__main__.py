"""`python -m experiments.compress`."""

from experiments import command
from experiments.compress.command import main

if __name__ == "__main__":
    command.run_command(main)
