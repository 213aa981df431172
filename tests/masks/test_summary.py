"""The summary: exact integers, both totals, the pattern that a mask satisfies, the table's text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.patterns import NM, Block, Channel

LIVE = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]], bool)  # of no pattern
PARAMS = {
    "embed": {"embedding": jnp.ones((100, 4))},
    "layer": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)},
    "temperature": jnp.ones(()),
}
MASKS = {
    "embed": {"embedding": jnp.asarray(True)},
    "layer": {"kernel": jnp.asarray(LIVE), "bias": jnp.asarray(True)},
    "temperature": jnp.asarray(True),
}
TABLE = """\
layer            shape   pattern       sparsity  kept
───────────────  ──────  ────────────  ────────  ────
embed/embedding  100×4   —                    —   400
layer/bias       4       —                    —     4
layer/kernel     4×4     unstructured    0.8125     3
temperature      scalar  —                    —     1
───────────────  ──────  ────────────  ────────  ────
total, prunable  16                      0.8125     3
total, all       421                     0.0309   408
dense, embedding, by its name: embed/embedding
masks: 19 bytes unpacked"""


def test_the_table_reads_as_it_should():
    assert str(sparsejax.summarize(PARAMS, MASKS)) == TABLE


def test_both_totals():
    summary = sparsejax.summarize(PARAMS, MASKS)
    assert summary.sparsity == 13 / 16
    assert (summary.size, summary.kept) == (421, 408)
    assert summary.total_sparsity == pytest.approx(13 / 421)
    assert [row.path for row in summary.rows if row.prunable] == ["layer/kernel"]


def test_counts_beyond_2_to_the_31_are_exact():
    # A mask of one row stands for 70,000 of them; the parameter needs no memory.
    params = {"w": jax.ShapeDtypeStruct((70_000, 70_000), jnp.float32)}
    mask = (np.arange(70_000) < 50_001)[None, :]
    (row,) = sparsejax.summarize(params, {"w": mask}).rows
    assert (row.size, row.kept) == (4_900_000_000, 50_001 * 70_000)
    assert (row.pattern, row.mask_bytes) == ("channel", 70_000)


PATTERNS = {
    "2:4": (NM(2, 4), "kernel", (8, 4)),
    "1:4": (NM(1, 4), "kernel", (8, 4)),
    "2:4 in a convolution": (NM(2, 4), "conv/kernel", (3, 3, 4, 4)),
    "block 2x2": (Block(2, 2), "kernel", (8, 4)),
    "block 4x1": (Block(4, 1), "kernel", (8, 4)),
    "channel": (Channel("output"), "kernel", (8, 4)),
    "unstructured": (sparsejax.patterns.Unstructured(), "w", (8, 4)),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_the_pattern_is_the_one_that_the_mask_satisfies(name):
    pattern, path, shape = PATTERNS[name]
    w = jnp.asarray(np.random.default_rng(5).normal(size=shape), jnp.float32)
    _, masks = sparsejax.prune_params({path: w}, sparsity=1 - (pattern.fixed_density or 0.5), pattern=pattern)
    assert sparsejax.summarize({path: w}, masks).rows[0].pattern == name.split(" in")[0]


def test_the_ends_have_names_of_their_own():
    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
    rows = sparsejax.summarize(params, {"a": jnp.ones((4, 4), bool), "b": jnp.zeros((4, 4), bool)}).rows
    assert [(row.pattern, row.sparsity) for row in rows] == [("dense", 0.0), ("empty", 1.0)]


def test_nothing_prunable_is_no_division_by_zero():
    summary = sparsejax.summarize({"b": jnp.ones(3)}, {"b": jnp.asarray(True)})
    assert (summary.sparsity, summary.total_sparsity) == (0.0, 0.0)
    assert "total, prunable" in str(summary)


def test_no_parameters_make_an_empty_table():
    summary = sparsejax.summarize({}, {})
    assert (summary.rows, summary.size, summary.total_sparsity) == ((), 0, 0.0)
    assert str(summary).count("total") == 2


def test_every_dense_leaf_of_two_axes_has_its_reason():
    x = jnp.ones((2, 4))
    params = {
        "film": jnp.ones((4, 4)),
        "head": {"kernel": jnp.ones((4, 4))},
        "ids": jnp.ones((2, 2), int),
        "norm": {"weight": jnp.ones((3, 4))},
        "w": jnp.ones((4, 4)),
    }
    roles = sparsejax.linear_ops(lambda p, x: (x @ p["w"] * p["film"][0]) @ p["head"]["kernel"], params, x)
    overrides = {"head/*": sparsejax.dense}
    pruned, masks = sparsejax.prune_params(params, sparsity=0.5, roles=roles, overrides=overrides)
    reasons = {row.path: row.reason for row in sparsejax.summarize(pruned, masks, roles).rows}
    assert reasons == {
        "film": "no product or convolution consumes it",
        "head/kernel": "left out by prunable= or overrides=",
        "ids": "int32, not floating",
        "norm/weight": "norm, by its module's name",
        "w": "",
    }


def test_the_pattern_is_read_along_the_axes_that_roles_name():
    params = {"weight": jnp.asarray(np.random.default_rng(3).normal(size=(8, 16)), jnp.float32)}
    roles = sparsejax.linear_ops(lambda p, x: p["weight"] @ x, params, jnp.ones(16))
    pruned, masks = sparsejax.prune_params(params, sparsity=0.5, pattern=NM(2, 4), roles=roles)
    (row,) = sparsejax.summarize(pruned, masks, roles).rows
    assert row.pattern == "2:4"
