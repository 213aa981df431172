"""`python -m experiments.search`."""

from experiments import command
from experiments.search.command import main

if __name__ == "__main__":
    command.run_command(main)
