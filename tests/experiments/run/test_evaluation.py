"""A split's evaluation: every example once, or examples from all over a split that is in order."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.split import Split, evenly_spaced
from experiments.run.evaluation import make_evaluate
from experiments.run.objective import make_objective

# In order, as text by files is: the first half of class 0, the second of class 1.
SPLIT = Split(
    {"image": jnp.eye(2).repeat(5, axis=0), "label": jnp.repeat(jnp.arange(2), 5)}, size=10, classes=2
)
ALWAYS_0 = jnp.array([[9.0, -9.0], [9.0, -9.0]])


@pytest.mark.parametrize("batch_size", [3, 10, 64])
@pytest.mark.parametrize(("examples", "right"), [(None, 0.5), (4, 0.5), (1, 1.0), (99, 0.5)])
def test_part_of_a_split_is_spread_over_it(batch_size, examples, right):
    evaluate = make_evaluate(make_objective(lambda w, stats, x, train: (x @ w, stats)), batch_size=batch_size)
    found = evaluate(ALWAYS_0, {}, SPLIT, examples)
    assert float(found.accuracy) == pytest.approx(right)
    assert float(found.loss) == pytest.approx(18 * (1 - right), abs=1e-4)


def test_batches_of_evenly_spaced_examples_share_nothing_and_reach_everywhere():
    chosen = evenly_spaced(103, 5 * 8)
    batches = [chosen[i::5] for i in range(5)]
    assert len(np.unique(chosen)) == 40
    for batch in batches:
        assert batch.shape == (8,)
        assert batch[0] < 103 / 7
        assert batch[-1] > 103 * 6 / 7
    assert np.bincount(evenly_spaced(3, 7)).tolist() == [3, 2, 2]
