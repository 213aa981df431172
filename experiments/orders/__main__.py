"""`python -m experiments.orders`."""

from experiments import command
from experiments.orders.command import main

if __name__ == "__main__":
    command.run_command(main)
