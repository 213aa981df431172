"""A loss that is not finite is traced to what broke first."""

import jax
import jax.numpy as jnp
import pytest

from experiments.data.split import Batch
from experiments.run.diagnose import blame
from experiments.run.objective import make_objective
from sparsejax.kernels import from_dense, rewire

BATCH = Batch(jnp.ones((2, 3)), jnp.zeros(2, jnp.int32))
OBJECTIVE = make_objective(lambda p, stats, x, train: ((x @ p["first"]) @ p["second"], stats))
GOOD = {"first": jnp.ones((3, 2)), "second": jnp.ones((2, 2))}


@pytest.mark.parametrize(
    ("params", "batch", "words"),
    [
        ({**GOOD, "second": jnp.full((2, 2), jnp.nan)}, BATCH, "the parameters 'second' are not finite"),
        (GOOD, Batch(BATCH.inputs.at[0, 0].set(jnp.inf), BATCH.targets), "the inputs of that batch are not finite"),
        (
            {"first": jnp.full((3, 2), 1e30), "second": jnp.full((2, 2), 1e20)},
            BATCH,
            "the largest weight, 1e+30, is in 'first', and 2 of 2 gradients are not finite",
        ),
    ],
)  # fmt: skip
def test_what_broke(params, batch, words):
    assert words in blame(OBJECTIVE, params, {}, batch)


def test_many_broken_parameters_are_counted():
    params = {f"layer_{i}": jnp.array([jnp.nan]) for i in range(5)}
    assert "'layer_2' are not finite, nor are 2 more" in blame(OBJECTIVE, params, {}, BATCH)


def test_blocks_that_found_no_room_are_named_first():
    w = from_dense(jnp.ones((4, 4)), jnp.eye(4, dtype=bool), block=(1, 1))
    over = jax.jit(rewire)(w, jnp.ones((4, 4), bool))
    said = blame(OBJECTIVE, {"layer": {"kernel": over}}, {}, BATCH)
    assert "'layer/kernel' was asked to hold 16 live blocks and has room for 4" in said
