"""Starts `experiments.compress.command`."""

from experiments.compress.command import main

if __name__ == "__main__":
    main()
