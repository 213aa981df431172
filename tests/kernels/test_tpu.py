"""The TPU kernels, interpreted: against float64, with uninitialised memory as NaN and a detector of races."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from sparsejax.errors import KernelError
from sparsejax.kernels import from_dense, tpu
from tests.kernels.structures import TOLERANCE, blocks_of, make_case, masks, relative_error

BLOCK = (128, 128)
STRUCTURES = masks(3, 2)
INTERPRET = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")


@pytest.mark.parametrize(
    ("structure", "dtype"),
    [
        *((name, "float32") for name in STRUCTURES),
        ("empty rows and columns", "bfloat16"),
    ],
)
def test_products_match_float64(structure, dtype, capfd):
    full = structure == "all"  # then at full capacity too; no other case has as many blocks as slots
    case = make_case(STRUCTURES[structure], BLOCK, rows=16, dtype=dtype, spare=0 if full else 2)
    x, g, t = np.asarray(case.x, np.float64), np.asarray(case.g, np.float64), case.w.topology
    y = tpu.dsd(case.x, case.w.data, t, 256, interpret=INTERPRET)
    dx = tpu.dsd_t(case.g, case.w.data, t, 384, interpret=INTERPRET)
    dw = tpu.sdd(case.x, case.g, t, BLOCK, interpret=INTERPRET)
    assert "RACE" not in "".join(capfd.readouterr())  # what the interpreter prints of one
    assert relative_error(y, x @ case.dense) < TOLERANCE[dtype]
    assert relative_error(dx, g @ case.dense.T) < TOLERANCE[dtype]
    live = np.asarray(t.is_live)
    expected = blocks_of(x.T @ g, BLOCK)[np.asarray(t.rows)[live], np.asarray(t.columns)[live]]
    assert relative_error(np.asarray(dw)[live], expected) < TOLERANCE[dtype]


def test_vmap_over_a_population_of_matrices():
    """Members differ in where their blocks stand and in how many there are."""
    drawn = np.stack([STRUCTURES["one"], STRUCTURES["empty rows and columns"]])
    keys = jax.random.split(jax.random.key(0), 3)
    values, x, g = (
        jax.random.normal(k, (2, n, m)) for k, n, m in zip(keys, (384, 16, 16), (256, 384, 256), strict=True)
    )
    population = jax.vmap(functools.partial(from_dense, block=BLOCK, capacity=5))(values, jnp.asarray(drawn))

    @jax.vmap
    def products(x, g, w):
        t = w.topology
        return (
            tpu.dsd(x, w.data, t, 256, interpret=True),
            tpu.dsd_t(g, w.data, t, 384, interpret=True),
            tpu.sdd(x, g, t, BLOCK, interpret=True),
        )

    y, dx, dw = products(x, g, population)
    for i, mask in enumerate(drawn):
        dense, own_x, own_g = (np.asarray(array[i], np.float64) for array in (values, x, g))
        dense = dense * np.kron(mask, np.ones(BLOCK))
        t = jax.tree.map(lambda leaf, i=i: leaf[i], population.topology)
        live = np.asarray(t.is_live)
        expected = blocks_of(own_x.T @ own_g, BLOCK)[np.asarray(t.rows)[live], np.asarray(t.columns)[live]]
        assert relative_error(y[i], own_x @ dense) < 1e-5
        assert relative_error(dx[i], own_g @ dense.T) < 1e-5
        assert relative_error(np.asarray(dw[i])[live], expected) < 1e-5


def test_sizes_that_do_not_fit_are_refused():
    case = make_case(np.ones((2, 2), bool), (64, 128), rows=8)
    with pytest.raises(KernelError, match="multiples of 128"):
        tpu.dsd(case.x, case.w.data, case.w.topology, 256)
    case = make_case(np.ones((1, 1), bool), BLOCK, rows=3)
    with pytest.raises(KernelError, match="rows divisible by 8"):
        tpu.sdd(case.x, case.g, case.w.topology, BLOCK)
    assert not tpu.fits(3, BLOCK)
    assert tpu.fits(8, BLOCK)
