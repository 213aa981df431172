"""Products with a block-sparse matrix against float64, in every formulation, structure and type."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import KernelError, ParamsError
from sparsejax.kernels.block_scores import block_grad_scores, with_probes
from sparsejax.kernels.block_sparse import from_dense, rewire, to_dense
from sparsejax.kernels.hardware import PLATFORMS, on_hardware
from sparsejax.kernels.products import matmul
from sparsejax.kernels.rows import HARDWARE
from sparsejax.kernels.topology import topology_of
from sparsejax.kernels.xla_products import FORMULATIONS
from tests.kernels.structures import TOLERANCE, blocks_of, make_case, masks, relative_error

BLOCK = (4, 8)
STRUCTURES = masks(6, 3)


@jax.jit
def value_and_gradients(x, w, g):
    y, pull = jax.vjp(lambda x, data: matmul(x, dataclasses.replace(w, data=data)), x, w.data)
    return y, *pull(g)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize(
    ("structure", "dtype"),
    [*((name, "float32") for name in STRUCTURES), ("empty rows and columns", "bfloat16")],
)
def test_value_and_gradients_match_float64(formulation, structure, dtype):
    case = make_case(STRUCTURES[structure], BLOCK, rows=5, dtype=dtype, implementation=formulation)
    y, dx, dw = value_and_gradients(case.x, case.w, case.g)
    x, g = np.asarray(case.x, np.float64), np.asarray(case.g, np.float64)
    assert relative_error(y, x @ case.dense) < TOLERANCE[dtype]
    assert relative_error(dx, g @ case.dense.T) < TOLERANCE[dtype]
    t, live = case.w.topology, int(case.w.topology.live)
    expected = blocks_of(x.T @ g, BLOCK)[np.asarray(t.rows)[:live], np.asarray(t.columns)[:live]]
    assert relative_error(dw[:live], expected) < TOLERANCE[dtype]
    assert not np.asarray(dw[live:], np.float32).any()  # dead slots have no gradient, and no NaN
    assert (y.dtype, dx.dtype, dw.dtype) == (jnp.dtype(dtype),) * 3


def test_leading_axes_and_the_operator():
    case = make_case(STRUCTURES["all"], BLOCK, rows=12)
    x = case.x.reshape(2, 3, 2, -1)
    np.testing.assert_array_equal(x @ case.w, matmul(case.x, case.w).reshape(2, 3, 2, -1))
    assert matmul(case.x[0], case.w).shape == (24,)
    assert matmul(case.x[:0], case.w).shape == (0, 24)


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_vmap_over_a_population_of_matrices(formulation):
    """Members differ in their live blocks and in how many there are."""
    drawn = [STRUCTURES["none"], STRUCTURES["one"], STRUCTURES["empty rows and columns"]]
    values = jax.random.normal(jax.random.key(0), (3, 24, 24))
    make = functools.partial(from_dense, block=BLOCK, capacity=10)
    population = jax.vmap(make)(values, jnp.asarray(drawn))
    population = dataclasses.replace(population, implementation=formulation)
    x, g = jax.random.normal(jax.random.key(1), (2, 3, 5, 24))
    y, dx, dw = jax.jit(jax.vmap(value_and_gradients))(x, population, g)
    for i, mask in enumerate(drawn):
        dense = np.asarray(values[i]) * np.kron(mask, np.ones(BLOCK))
        assert relative_error(y[i], np.asarray(x[i]) @ dense) < 1e-5
        assert relative_error(dx[i], np.asarray(g[i]) @ dense.T) < 1e-5
        assert not np.asarray(dw[i, mask.sum() :]).any()


def test_rewiring_a_training_step_compiles_nothing_anew():
    traces = []
    grid = (6, 3)

    @jax.jit
    def step(w, x, mask):
        traces.append(1)
        gradient = jax.grad(lambda w: jnp.sum(matmul(x, w) ** 2), allow_int=True)(w)
        return rewire(dataclasses.replace(w, data=w.data - 1e-3 * gradient.data), mask)

    w = from_dense(jnp.ones((24, 24)), jnp.ones(grid, bool), block=BLOCK)
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = rng.random(grid) < 0.5
        before, w = np.asarray(to_dense(w)), step(w, jnp.ones((5, 24)), jnp.asarray(mask))
        assert not np.asarray(to_dense(w))[~np.kron(mask, np.ones(BLOCK, bool))].any()
        assert before.shape == (24, 24)
    assert len(traces) == 1
    assert step._cache_size() == 1


@pytest.mark.parametrize("norm", ["mean", "l2"])
def test_scores_of_the_gradient_of_every_block(norm):
    case = make_case(STRUCTURES["all"], BLOCK, rows=5)
    gradient = blocks_of(np.asarray(case.x, np.float64).T @ np.asarray(case.g, np.float64), BLOCK)
    expected = {"mean": np.abs(gradient).mean((2, 3)), "l2": np.sqrt((gradient**2).sum((2, 3)))}[norm]
    assert relative_error(block_grad_scores(case.x, case.g, BLOCK, norm), expected) < 1e-5


def test_the_gradient_of_a_probe_is_the_scores_of_dead_blocks_too():
    case = make_case(STRUCTURES["one"], BLOCK, rows=5)
    loss = lambda params: jnp.vdot(matmul(case.x, params["w"]), case.g)  # noqa: E731
    grads = jax.jit(jax.grad(loss, allow_int=True))(with_probes({"w": case.w}))
    np.testing.assert_allclose(grads["w"].probe, block_grad_scores(case.x, case.g, BLOCK), rtol=1e-6)


def test_no_dense_gradient_is_in_the_compiled_program():
    """Neither the plain gradient nor the scores hold an array as large as the matrix."""
    x, g = jnp.ones((8, 256)), jnp.ones((8, 256))
    mask = jnp.eye(16, dtype=bool)
    w = from_dense(jnp.ones((256, 256)), mask, block=(16, 16))
    loss = lambda w: jnp.vdot(matmul(x, w), g)  # noqa: E731
    for params in (w, with_probes(w)):
        text = jax.jit(jax.grad(loss, allow_int=True)).lower(params).compile().as_text()
        assert "f32[256,256]" not in text
        assert "f32[16,16,16,16]" not in text


def test_bad_input_is_refused_with_a_remedy():
    w = from_dense(jnp.eye(4), block=(2, 2))
    with pytest.raises(ParamsError, match="takes 4 features"):
        matmul(jnp.ones((3, 5)), w)
    with pytest.raises(KernelError, match="float16; sparse products take float32 and bfloat16"):
        matmul(jnp.ones((3, 4), jnp.float16), w)
    with pytest.raises(KernelError, match="cast one of them"):
        matmul(jnp.ones((3, 4), jnp.bfloat16), w)
    with pytest.raises(KernelError, match="choose one of auto, batched"):
        matmul(jnp.ones((3, 4)), dataclasses.replace(w, implementation="cusparse"))
    with pytest.raises(ParamsError, match="x has 2 rows and g 3"):
        block_grad_scores(jnp.ones((2, 2)), jnp.ones((3, 2)), (1, 1))
    with pytest.raises(KernelError, match="choose one of mean, l2"):
        block_grad_scores(jnp.ones((1, 2)), jnp.ones((1, 2)), (1, 1), "max")


@pytest.mark.parametrize("kind", HARDWARE)
@pytest.mark.parametrize("jitted", [False, True])
def test_a_kernel_on_other_hardware_is_refused_with_a_remedy(kind, jitted):
    """Forward and backward, under vmap too; a program for the hardware that is not here still lowers to that point."""
    dtype = jnp.bfloat16
    w = dataclasses.replace(from_dense(jnp.ones((128, 128), dtype), block=(128, 128)), implementation=kind)
    x = jnp.ones((2, 256, 128), dtype)
    for run in (
        matmul,
        jax.vmap(matmul, (0, None)),
        jax.grad(lambda x, w: jnp.sum(matmul(x, w)).astype(jnp.float32)),
    ):
        with pytest.raises(
            KernelError, match=f"implementation='{kind}' is a kernel for .* this program is for cpu"
        ):
            (jax.jit(run) if jitted else run)(x, w)
    passes = jax.jit(lambda x: on_hardware(x, kind)).trace(x)
    assert passes.lower(lowering_platforms=(PLATFORMS[kind][0],)).as_text()
    np.testing.assert_array_equal(matmul(x, dataclasses.replace(w, implementation="auto")), x @ to_dense(w))


def test_dead_slots_may_lie_anywhere():
    """After a rewiring that frees slots in the middle, which then hold NaN."""
    case = make_case(STRUCTURES["all"], BLOCK, rows=5, spare=0)
    mask = STRUCTURES["empty rows and columns"]
    w = rewire(case.w, jnp.asarray(mask))
    freed = ~np.asarray(w.topology.is_live)
    assert freed[:3].any()
    assert not freed[3:].all()
    w = dataclasses.replace(w, data=jnp.where(freed[:, None, None], jnp.nan, w.data))
    dense, x, g = case.dense * np.kron(mask, np.ones(BLOCK)), np.asarray(case.x), np.asarray(case.g)
    for formulation in FORMULATIONS:
        used = dataclasses.replace(w, implementation=formulation)
        y, dx, dw = value_and_gradients(case.x, used, case.g)
        assert relative_error(y, x @ dense) < 1e-5
        assert relative_error(dx, g @ dense.T) < 1e-5
        assert not np.asarray(dw)[freed].any()


def test_topology_lists_blocks_by_column_and_by_row():
    mask = STRUCTURES["empty rows and columns"]
    t = topology_of(jnp.asarray(mask), 12)
    columns, rows = np.nonzero(mask.T)
    live = len(rows)
    np.testing.assert_array_equal(t.rows[:live], rows)
    np.testing.assert_array_equal(t.columns[:live], columns)
    np.testing.assert_array_equal(t.by_column[:live], np.arange(live))
    np.testing.assert_array_equal(t.by_row[:live], np.lexsort((columns, rows)))
    np.testing.assert_array_equal(t.column_starts, np.concatenate([[0], np.cumsum(mask.sum(0))]))
    np.testing.assert_array_equal(t.row_starts, np.concatenate([[0], np.cumsum(mask.sum(1))]))
    assert (int(t.live), int(t.overflow)) == (live, 0)
