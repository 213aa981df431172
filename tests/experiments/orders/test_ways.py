"""The orders on a small function: masks and grids that hold, and what each step looked at."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.one_shot.tasks import Task
from experiments.orders.ways import ALONE, ORDERS, Bench, find_order
from sparsejax.parametrizations.integer_grid import is_quantized
from sparsejax.post_training import dequantize
from tests.tracing.functions import normal

SPARSITY, BITS = 0.5, 4


def fn(p, x):
    return jax.nn.relu(x @ p["a"]["kernel"]) @ p["head"]["kernel"] + p["head"]["bias"]


@functools.cache
def bench():
    params = {"a": {"kernel": normal(16, 12)}, "head": {"kernel": normal(12, 8), "bias": normal(8)}}
    config = {"in_8_bits": ("head/kernel",), "tune_steps": 30, "tune_batch": 20, "learning_rate": 1e-2}
    batches = [normal(40, 16, seed=i) for i in range(3)]
    nothing = np.zeros((1, 16)), np.zeros(1)
    task = Task(fn, params, lambda draw: batches, *nothing, None, None, "", 1.0, {})
    return Bench(task, ConfigDict(config), 0)


@functools.cache
def made(name):
    params, masks = find_order(name)(bench(), SPARSITY, BITS)
    return bench().finished(params), masks


def error(params):
    x = normal(500, 16, seed=9)
    return float(jnp.mean((fn(dequantize(params), x) - fn(bench().task.params, x)) ** 2))


@pytest.mark.parametrize("name", [name for name in ORDERS if "free" not in name])
def test_every_order_prunes_and_rounds_what_it_should(name):
    params, masks = made(name)
    kernel = params["a"]["kernel"]
    assert kernel.bits == BITS
    assert masks["a"]["kernel"].sum() == 16 * 12 // 2
    assert not np.any(kernel.values[~masks["a"]["kernel"]])
    assert params["head"]["kernel"].bits == 8
    assert masks["head"]["kernel"].ndim == 0
    assert not is_quantized(params["head"]["bias"])
    assert error(params) < error(jax.tree.map(jnp.zeros_like, bench().task.params))


def test_free_zeros_do_not_stay():
    params, masks = made("SparseGPT, QAT, zeros free")
    assert masks is None
    kept, before = made("SparseGPT, QAT, zeros kept")
    assert np.any(params["a"]["kernel"].values[~before["a"]["kernel"]])
    assert error(params) < error(kept)


def test_pruning_last_stays_on_the_grid_of_the_first_step_and_chooses_by_it():
    first = bench().rounded(BITS)["a"]["kernel"]
    for name in ("GPTQ, then Wanda", "GPTQ, then SparseGPT"):
        params, masks = made(name)
        assert (params["a"]["kernel"].scale == first.scale).all()
        if "Wanda" in name:  # which leaves what stays as it was
            kept = masks["a"]["kernel"]
            assert (params["a"]["kernel"].values == jnp.where(kept, first.values, 0)).all()
    score = (
        jnp.abs(first.dequantize()) * jnp.linalg.norm(jnp.concatenate(bench().batches[:2]), axis=0)[:, None]
    )
    largest = jnp.argsort(-score, axis=0, stable=True)[:8]
    expected = jnp.zeros((16, 12), bool).at[largest, jnp.arange(12)].set(True)
    assert (
        jnp.sort(jnp.where(expected, score, 0), 0) == jnp.sort(jnp.where(kept_by_wanda(), score, 0), 0)
    ).all()


def kept_by_wanda():
    return made("GPTQ, then Wanda")[1]["a"]["kernel"]


def test_training_moves_the_weights_towards_the_dense_network():
    names = ("SparseGPT, then GPTQ", "SparseGPT, tuned, GPTQ")
    before, after = (error(made(name)[0]) for name in names)
    assert after < before


def test_steps_alone():
    pruned, masks = find_order("pruned alone")(bench(), SPARSITY, 32)
    assert not any(map(is_quantized, jax.tree.leaves(pruned, is_leaf=is_quantized)))
    assert not np.any(pruned["a"]["kernel"][~masks["a"]["kernel"]])
    rounded, none = find_order("rounded alone")(bench(), 0.0, BITS)
    assert none is None
    assert rounded["a"]["kernel"].bits == BITS
    assert set(ALONE) == {"pruned alone", "rounded alone"}
