"""Starts `experiments.lottery.command`."""

from experiments.lottery.command import main

if __name__ == "__main__":
    main()
