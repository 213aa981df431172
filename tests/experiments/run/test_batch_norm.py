"""Statistics taken anew are the plain mean of the batches' own, and they are taken when masks have changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.run.batch_norm import _read_back, make_reestimate, reestimate
from experiments.run.state import TrainState, member_of, stack_members
from sparsejax.interop.flax import stateful
from tests.experiments import tiny

SPLIT = tiny.make_split()


def _model():
    """One layer under batch norm, with large numbers in it: rounding must not grow with them."""

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(5, 3, rngs=rngs)
            self.norm = nnx.BatchNorm(3, momentum=0.99, rngs=rngs)

        def __call__(self, x):
            return self.norm(1000 * self.dense(x) + jnp.array([0.0, 1.0, -5000.0]))

    return stateful(Model(nnx.Rngs(0)))


@pytest.fixture(scope="module")
def model():
    return _model()


def _direct(params, batches):
    """Mean over batches of mean and variance, in NumPy."""
    kernel, bias = (np.asarray(params["dense"][name], np.float64) for name in ("kernel", "bias"))
    outs = [1000 * (np.asarray(x, np.float64) @ kernel + bias) + [0.0, 1.0, -5000.0] for x in batches]
    return np.mean([out.mean(axis=0) for out in outs], axis=0), np.mean(
        [out.var(axis=0) for out in outs], axis=0
    )


def test_the_mean_of_the_batches_own_statistics(model):
    batches = [SPLIT.arrays["image"][i : i + 6] for i in (0, 6, 12)]
    stale = jax.tree.map(lambda leaf: leaf + 123.0, model.batch_stats)
    found = jax.jit(lambda p, s: reestimate(model.apply, p, s, batches))(model.params, stale)
    mean, var = _direct(model.params, batches)
    np.testing.assert_allclose(found["norm"]["mean"], mean, rtol=1e-3, atol=0.1)
    np.testing.assert_allclose(found["norm"]["var"], var, rtol=1e-3)


def test_statistics_of_zero_stay_zero():
    assert _read_back(jnp.zeros(2), jnp.zeros(2)).tolist() == [0.0, 0.0]
    assert reestimate(None, {}, {"mean": jnp.ones(1)}, [])["mean"].tolist() == [1.0]


def test_only_members_whose_masks_changed_are_taken_anew_and_inputs_are_normalised_first(model):
    def halve(key, batch):
        del key
        return batch._replace(inputs=batch.inputs / 2)

    refresh = make_reestimate(model.apply, SPLIT, batch_size=6, batches=100, augment=halve, population=True)
    params, stats = stack_members([model.params] * 2), stack_members([model.batch_stats] * 2)
    state = TrainState(params, stats, (), (), jnp.zeros((2, 1)), jnp.int32(4))
    assert refresh(state, np.array([False, False])) is state
    after = refresh(state, np.array([False, True]))
    tiny.assert_same(member_of(after, 0), member_of(state, 0))
    mean, _ = _direct(model.params, [SPLIT.arrays["image"][i : i + 6] / 2 for i in (0, 6, 12)])
    np.testing.assert_allclose(after.batch_stats["norm"]["mean"][1], mean, rtol=1e-3, atol=0.1)
    tiny.assert_same(after.params, state.params)
