"""Starts `experiments.study.command`."""

from experiments.study.command import main

if __name__ == "__main__":
    main()
