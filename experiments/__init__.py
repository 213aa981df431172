"""The runner of the library: commands, and the rooms that they are made of. Used from a checkout."""

import sys

# `python -m experiments.train` comes here first, while `sys.argv[0]` is still "-m": importing JAX, Flax and the
# data tools takes seconds, and nothing else could say so before.
if sys.argv[:1] == ["-m"] and sys.stderr.isatty():
    print("loading JAX, Flax and the data tools …", file=sys.stderr, flush=True)
