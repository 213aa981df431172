"""OWL by its equations, sensitivity by pruning one layer at a time, choices that meet the sparsity of all together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import CalibrationError, PathError, SparsityError
from sparsejax.patterns import NM
from sparsejax.post_training import choose_by_sensitivity, magnitude, owl, sensitivity, wanda
from tests.tracing.functions import normal


@pytest.fixture(scope="module")
def network():
    heavy = jnp.exp(2 * normal(16, 24))  # many outliers
    params = {"a": {"kernel": heavy}, "c": {"kernel": normal(24, 8)}, "d": {"kernel": normal(8, 8)}}

    def fn(p, x):
        x = jnp.tanh(x @ p["a"]["kernel"] / 30)
        return jnp.tanh(x @ p["c"]["kernel"]) @ p["d"]["kernel"]

    return fn, params, [normal(100, 16, seed=i) for i in range(3)]


def inputs_of(params, x):
    hidden = jnp.tanh(x @ params["a"]["kernel"] / 30)
    return {"a": x, "c": hidden, "d": jnp.tanh(hidden @ params["c"]["kernel"])}


def test_owl_is_what_the_paper_says(network):
    fn, params, batches = network
    rows = inputs_of(params, jnp.concatenate(batches))
    ratio, size = {}, {}
    for name, x in rows.items():
        score = np.abs(params[name]["kernel"]) * np.linalg.norm(x, axis=0)[:, None]
        ratio[name], size[name] = np.mean(score > 3 * score.mean()), score.size
    found = owl(fn, params, batches, sparsity=0.6, outlier=3.0)
    low, high = min(ratio.values()), max(ratio.values())
    lift = {name: 0.16 * (r - low) / (high - low) for name, r in ratio.items()}
    mean = sum(lift[n] * size[n] for n in size) / sum(size.values())
    for name in size:
        np.testing.assert_allclose(found[f"{name}/kernel"], 1 - (0.4 + lift[name] - mean), rtol=1e-5)
    assert found["a/kernel"] == min(found.values())
    together = owl(fn, params, batches, sparsity=0.6, outlier=3.0, group=lambda path: path in ("a/kernel",))
    assert together["c/kernel"] == together["d/kernel"]


@pytest.mark.parametrize("sparsity", [0.0, 0.03, 0.6, 0.98, 1.0])
def test_owls_sparsities_are_in_range_and_meet_the_whole(network, sparsity):
    fn, params, batches = network
    found = owl(fn, params, batches, sparsity=sparsity, outlier=3.0, spread=0.2)
    sizes = np.array([params[path[0]]["kernel"].size for path in found])
    assert all(0 <= s <= 1 for s in found.values())
    np.testing.assert_allclose(np.average(list(found.values()), weights=sizes), sparsity, atol=1e-6)
    pruned = wanda(fn, params, batches, sparsity=found)
    kept = sum(int(np.sum(leaf["kernel"])) for leaf in pruned.masks.values())
    assert abs(kept - (1 - sparsity) * sizes.sum()) < 48  # wanda counts by row


def test_sparsities_by_path_leave_the_rest_dense(network):
    fn, params, batches = network
    layers = magnitude(fn, params, batches, sparsity={"a/*": 0.5, "c*": 0.25}).layers
    assert {path: result.sparsity for path, result in layers.items()} == {"a/kernel": 0.5, "c/kernel": 0.25}
    with pytest.raises(PathError, match="sparsity: the path pattern"):
        magnitude(fn, params, batches, sparsity={"b/*": 0.5})


@pytest.mark.parametrize("candidates", [(0.25, 0.5, 0.75), (NM(3, 4), NM(2, 4), NM(1, 4))])
def test_sensitivity_prunes_one_layer_at_a_time(network, candidates):
    fn, params, batches = network
    found = sensitivity(fn, params, batches, candidates=candidates)
    x = jnp.concatenate(batches)
    aim = fn(params, x)
    for name, rows in inputs_of(params, x).items():
        score = np.abs(params[name]["kernel"]) * np.linalg.norm(rows, axis=0)[:, None]
        for place, share in enumerate((0.25, 0.5, 0.75)):
            if isinstance(candidates[0], NM):
                groups = score.reshape(-1, 4, score.shape[1])
                order = np.argsort(np.argsort(groups, axis=1), axis=1)
                mask = (order >= round(4 * share)).reshape(score.shape)
            else:
                mask = score >= np.sort(score.ravel())[round(share * score.size)]
            one = {**params, name: {"kernel": jnp.where(mask, params[name]["kernel"], 0)}}
            expected = jnp.sum((fn(one, x) - aim) ** 2) / jnp.sum(aim**2)
            np.testing.assert_allclose(found[f"{name}/kernel"][place], expected, rtol=1e-3)


def test_the_choice_is_the_best_of_all_that_meet_the_sparsity(network):
    _, params, _ = network
    candidates = (0.25, 0.5, 0.75)
    # Layers of one size, convex curves: greedy is optimal.
    params = {name: {"kernel": jnp.zeros((4, 4))} for name in "acd"}
    curves = {"a/kernel": [0, 1, 5], "c/kernel": [0, 2, 4.5], "d/kernel": [0, 7, 15]}
    chosen = choose_by_sensitivity(curves, params, sparsity=0.5, candidates=candidates)
    places = [candidates.index(chosen[path].sparsity) for path in curves]
    cost = sum(curve[place] for curve, place in zip(curves.values(), places, strict=True))
    every = [
        sum(curve[i] for curve, i in zip(curves.values(), choice, strict=True))
        for choice in np.ndindex(3, 3, 3)
        if sum(choice) >= 3
    ]
    assert sum(places) == 3
    assert cost == min(every)


def test_chosen_patterns_prune_a_model(network):
    fn, params, batches = network
    candidates = (NM(3, 4), NM(2, 4), NM(1, 4))
    curves = sensitivity(fn, params, batches, candidates=candidates)
    overrides = choose_by_sensitivity(curves, params, sparsity=0.5, candidates=candidates)
    masks = wanda(fn, params, batches, sparsity=None, overrides=overrides).masks
    sizes = [leaf["kernel"].size for leaf in params.values()]
    kept = sum(int(np.sum(jax.device_get(leaf["kernel"]))) for leaf in masks.values())
    assert kept <= 0.5 * sum(sizes)


def test_bad_input_is_refused(network):
    fn, params, batches = network
    with pytest.raises(CalibrationError, match="give a finite number above 0"):
        owl(fn, params, batches, sparsity=0.5, spread=0.0)
    with pytest.raises(CalibrationError, match="spread is inf"):
        owl(fn, params, batches, sparsity=0.5, spread=np.inf)
    for call in (owl, sensitivity):
        options = {"sparsity": 0.5} if call is owl else {}
        with pytest.raises(CalibrationError, match="no batch"):
            call(fn, params, [], **options)
        with pytest.raises(CalibrationError, match="Batch 1 has no row"):
            call(fn, params, [batches[0], batches[0][:0]], **options)
        with pytest.raises(CalibrationError, match=r"'a/kernel': its weights or the norms .* not finite"):
            call(fn, params, [batches[0].at[0, 0].set(jnp.nan)], **options)
    with pytest.raises(SparsityError, match="take one number"):
        owl(fn, params, batches, sparsity=np.array([0.5, 0.6]))
    with pytest.raises(SparsityError, match="no candidate"):
        sensitivity(fn, params, batches, candidates=())
    with pytest.raises(CalibrationError, match="no floating result"):
        sensitivity(lambda p, x: jnp.argmax(fn(p, x), 1), params, batches)
    with pytest.raises(SparsityError):
        owl(fn, params, batches, sparsity=50)
    with pytest.raises(CalibrationError, match=r"'a/kernel'.*not finite"):
        sensitivity(lambda p, x: fn(p, x) * jnp.inf, params, batches)
    curves = {"a/kernel": [0.0, 1.0]}
    with pytest.raises(SparsityError, match="must rise"):
        choose_by_sensitivity(curves, params, sparsity=0.5, candidates=(0.5, 0.5))
    with pytest.raises(SparsityError, match="more than the sparsest"):
        choose_by_sensitivity(curves, params, sparsity=0.9, candidates=(0.5, 0.8))
    for wrong, error, text in (
        ({"curves": {"a/bias": [0.0, 1.0]}}, PathError, "'a/bias' is no parameter"),
        ({"curves": {"a/kernel": [0.0]}}, CalibrationError, "each of 2 candidates"),
        ({"curves": {"a/kernel": [0.0, np.nan]}}, CalibrationError, "a finite number"),
        ({"sparsity": -1}, SparsityError, "sparsity is -1"),
        ({"sparsity": np.nan}, SparsityError, "sparsity is nan"),
        ({"candidates": (0.5, 1.5)}, SparsityError, r"candidates\[1\] is 1\.5"),
        ({"candidates": ()}, SparsityError, "no candidate"),
    ):
        with pytest.raises(error, match=text):
            choose_by_sensitivity(
                **{"curves": curves, "params": params, "sparsity": 0.5, "candidates": (0.5, 0.8), **wrong}
            )
