"""A function at the top of a module, as a user's own code has it: what another process imports."""

import sys

import jax
import numpy as np


def apply(params, x):
    return jax.nn.relu(x @ params["a"] + params["b"]) @ params["c"]


def main(path, inputs, results):
    """Loads a shrunk model in a process of its own, and writes what it computes."""
    from sparsejax.tracing import load_shrunk

    small_fn, small_params = load_shrunk(path, apply)
    np.save(results, np.asarray(small_fn(small_params, np.load(inputs))))


if __name__ == "__main__":
    main(*sys.argv[1:])
