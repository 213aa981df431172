"""Starts `experiments.report.command`."""

from experiments.report.command import main

if __name__ == "__main__":
    main()
