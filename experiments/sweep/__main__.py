"""Starts `experiments.sweep.command`."""

from experiments.sweep.command import main

if __name__ == "__main__":
    main()
