"""`python -m experiments.lottery`."""

from experiments import command
from experiments.lottery.command import main

if __name__ == "__main__":
    command.run_command(main)
