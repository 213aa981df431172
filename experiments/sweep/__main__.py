"""`python -m experiments.sweep`."""

import sys

from experiments.sweep.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
