"""Importances by name, masks that stack, and sensitivity, on one small function with hand-made weights; repair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from experiments.compress import stages
from experiments.compress.options import default_compression, validate_compression
from experiments.compress.unit_choices import (
    UNIT_IMPORTANCES,
    sensitivity,
    still_gone,
    unit_importance,
    whole_masks,
)
from experiments.config.fields import default_config
from experiments.data.split import Batch
from experiments.errors import ConfigError


def _fn(variables, inputs):
    return jax.nn.relu(inputs @ variables["a"]) @ variables["c"]


_VARIABLES = {
    "a": jnp.diag(jnp.arange(1.0, 5.0)),
    "c": jnp.arange(1.0, 9.0).reshape(4, 2) / 8,
    "rest": jnp.ones(3),
}
_BATCH = Batch(jnp.asarray([[1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 1.0, 0.0]]), jnp.asarray([0, 1]))


@pytest.fixture(scope="module")
def groups():
    return sparsejax.prunable_groups(_fn, _VARIABLES, _BATCH.inputs)


@pytest.mark.parametrize("name", UNIT_IMPORTANCES)
def test_every_name_ranks_every_unit(name, groups):
    found = unit_importance(name, _fn, [_BATCH], jax.random.key(0))(_VARIABLES, groups)["a:1"]
    assert found.shape == (4,)
    assert len(set(found.tolist())) > 1
    order = {"producer_l1": [0, 1, 2, 3], "l2": [0, 1, 2, 3], "position": [3, 2, 1, 0]}
    assert np.argsort(found).tolist() == order.get(name, np.argsort(found).tolist())


def test_masks_are_whole_wherever_a_group_is(groups):
    masks = whole_masks(_VARIABLES, groups, {"a:1": np.asarray([True, False, True, True])})
    assert {name: mask.shape for name, mask in masks.items()} == {"a": (4, 4), "c": (4, 2), "rest": ()}
    assert masks["a"].sum() == 12
    assert whole_masks(_VARIABLES, groups, {})["c"].all()


def test_units_that_went_stay_below_all_others(groups):
    keep = {"a:1": np.asarray([True, True, True, False])}
    found = still_gone(sparsejax.importances.uniform_width(), keep)(_VARIABLES, groups)["a:1"]
    assert np.argmin(found) == 3
    assert found[3] < found[:3].min()


def test_one_unit_always_stays(groups):
    ranks = {"a:1": np.arange(4.0)}
    rows = sensitivity(lambda v: {"sum": float(v["a"].sum())}, _VARIABLES, groups, ranks, (0.5, 0.99))["a:1"]
    assert [(row["kept"], row["sum"]) for row in rows] == [(2, 7.0), (1, 4.0)]


def test_repaired_cuts_are_closer_to_the_dense_network(data_dir, tmp_path):
    """A convnet on digits, half of its multiply-adds gone, nothing trained."""
    base = default_config("lenet")
    base.data_dir, base.batch_size = data_dir, 64
    base.model.channels, base.model.widths = (4, 6), (12,)
    options = default_compression(base)
    options.batches = 6
    task = stages.build_task(options)
    lost = {}
    for update in ("", "weights and bias"):
        options.repair = update
        validate_compression(options)
        place = tmp_path / (update or "none")
        stages.prune_run(task, "l2", 0, task.template, place, 0.5, None)
        logits = task.fn(stages.load_variables(task, place), task.inputs)
        lost[update] = float(jnp.mean((logits - task.fn(task.template, task.inputs)) ** 2))
    assert lost["weights and bias"] < 0.7 * lost[""]
    options.repair = "all"
    with pytest.raises(ConfigError, match="repair"):
        validate_compression(options)
