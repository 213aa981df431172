"""Readers of removed units solved anew: least squares by NumPy, and a loss that is lower for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from experiments.compress.recipe import reconstruction
from experiments.compress.recipe.network import Network
from experiments.models.build import build_model
from sparsejax.interop.flax import stateful
from sparsejax.search import unit_candidates

SIZES = {"name": "mlp", "widths": (12, 9)}


@pytest.fixture(scope="module")
def solved():
    from flax import nnx

    model = stateful(build_model(SIZES, input_shape=(4, 4), classes=3, rngs=nnx.Rngs(0)))
    variables = {"params": model.params, "batch_stats": {}}
    found = Network(SIZES, (4, 4), 3, variables)
    # Inputs that go together, so that what is left can stand for what has gone.
    mix = jax.random.normal(jax.random.key(0), (5, 16))
    inputs = [
        (jax.random.normal(key, (64, 5)) @ mix).reshape(64, 4, 4)
        for key in jax.random.split(jax.random.key(1), 3)
    ]
    groups = sparsejax.prunable_groups(found.function(), variables, inputs[0])
    importances = sparsejax.importances.l2()(variables, groups)
    kept = {name: (group.size, group.size - 4) for name, group in groups.items()}
    readers = reconstruction.solve_readers(found, inputs, groups, importances, kept)
    return found, inputs, groups, importances, kept, readers


def test_readers_are_least_squares_on_the_original_inputs(solved):
    found, inputs, _, importances, kept, readers = solved
    params = found.variables["params"]
    assert {path: site for path, (site, _) in readers.items()} == {"dense_1/kernel": 0, "dense_2/kernel": 1}
    x = jnp.concatenate(inputs).reshape(-1, 16)
    hidden = np.asarray(jax.nn.relu(x @ params["dense_0"]["kernel"] + params["dense_0"]["bias"]), np.float64)
    name = next(iter(kept))
    stays = np.argsort(-importances[name], kind="stable")[: kept[name][1]]
    kernel = np.asarray(params["dense_1"]["kernel"], np.float64)
    gram = hidden.T @ hidden
    ridge = 1e-3 * np.mean(np.diag(gram)) * np.eye(12)
    wanted = np.linalg.solve((gram + ridge)[np.ix_(stays, stays)], ((gram + ridge) @ kernel)[stays])

    def objective(rows):
        change = kernel.copy()
        change[stays] -= rows
        return float(np.sum(change * ((gram + ridge) @ change)))

    ours = np.asarray(readers["dense_1/kernel"][1][1], np.float64)
    assert objective(ours[stays]) == pytest.approx(objective(wanted), rel=1e-3)
    assert objective(wanted) < 0.5 * objective(kernel[stays])
    assert not np.delete(ours, stays, axis=0).any()
    np.testing.assert_allclose(readers["dense_1/kernel"][1][0], kernel, atol=1e-4)


def test_what_is_lost_is_less(solved):
    found, inputs, groups, importances, kept, readers = solved
    plain = unit_candidates(found.variables, groups, importances, kept)
    better = reconstruction.with_readers(plain, readers)
    fn, x = found.function(), jnp.concatenate(inputs)
    exact = fn(found.variables, x)

    def lost(candidates, levels):
        built = candidates.build(candidates.params, candidates.tables, jnp.array(levels))
        return float(jnp.mean((fn(built, x) - exact) ** 2))

    for levels in ((1, 0), (0, 1), (1, 1)):
        assert lost(better, levels) < 0.7 * lost(plain, levels)
    assert lost(better, (0, 0)) < 1e-6
