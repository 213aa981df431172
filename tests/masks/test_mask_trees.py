"""Mask trees: put on, measured, compared, and refused where they do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from sparsejax.errors import MaskError
from sparsejax.masks.mask_trees import is_prunable_mask

PARAMS = {"layer": {"kernel": jnp.arange(1.0, 7.0).reshape(2, 3), "bias": jnp.ones(3)}}
KEPT = jnp.array([[True, False, True], [False, True, False]])
MASKS = {"layer": {"kernel": KEPT, "bias": jnp.asarray(True)}}


def test_parameters_are_put_on_their_masks_exactly():
    pruned = sparsejax.apply_masks(PARAMS, MASKS)
    assert pruned["layer"]["kernel"].tolist() == [[1, 0, 3], [0, 5, 0]]
    assert pruned["layer"]["bias"] is PARAMS["layer"]["bias"]


@pytest.mark.parametrize("bad", [jnp.inf, -jnp.inf, jnp.nan])
def test_what_is_off_the_mask_is_zero_whatever_it_was(bad):
    pruned = sparsejax.apply_masks({"w": jnp.array([1.0, bad])}, {"w": jnp.array([True, False])})
    assert pruned["w"].tolist() == [1.0, 0.0]


def test_the_zero_has_no_sign():
    pruned = sparsejax.apply_masks({"w": jnp.array([-1.0])}, {"w": jnp.array([False])})
    assert not np.signbit(pruned["w"][0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_dtype_stays(dtype):
    pruned = sparsejax.apply_masks({"w": jnp.ones((2, 2), dtype)}, {"w": jnp.eye(2, dtype=bool)})
    assert pruned["w"].dtype == dtype


def test_a_broadcast_mask_covers_whole_channels():
    pruned = sparsejax.apply_masks({"w": jnp.ones((2, 3))}, {"w": jnp.array([[True, False, True]])})
    assert pruned["w"].tolist() == [[1, 0, 1]] * 2


def test_an_nnx_state_takes_masks_of_its_own_or_of_plain_arrays():
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    _, masks = sparsejax.prune_params(state, sparsity=0.5)
    plain = jax.tree.unflatten(jax.tree.structure(nnx.to_pure_dict(state)), jax.tree.leaves(masks))
    ours, theirs = (sparsejax.apply_masks(state, m) for m in (masks, plain))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs) == jax.tree.structure(state)
    assert int(jnp.sum(ours["kernel"][...] != 0)) == 3


def test_density_and_sparsity_weigh_by_weights():
    masks = {"small": jnp.zeros((2, 2), bool), "large": jnp.ones((1, 4), bool), "bias": jnp.asarray(True)}
    params = {"small": jnp.ones((2, 2)), "large": jnp.ones((3, 4)), "bias": jnp.ones(100)}
    assert float(sparsejax.masks.density(masks["small"])) == 0.0
    assert float(sparsejax.masks.sparsity(masks, params)) == 0.25  # 4 zeros of 16; the bias does not count
    assert float(sparsejax.masks.sparsity({"b": jnp.asarray(True)}, {"b": jnp.ones(3)})) == 0.0


def test_overlap_is_the_jaccard_index():
    a = {"w": jnp.array([True, True, False, False]), "b": jnp.asarray(True)}
    b = {"w": jnp.array([True, False, True, False]), "b": jnp.asarray(True)}
    assert float(sparsejax.masks.jaccard(a, b)["(all)"]) == pytest.approx(1 / 3)
    assert float(sparsejax.masks.jaccard(a, a)["(all)"]) == 1.0
    empty = {"w": jnp.zeros(4, bool)}
    assert float(sparsejax.masks.jaccard(empty, empty)["(all)"]) == 1.0


def test_the_mark_of_a_leaf_that_is_not_prunable():
    assert not is_prunable_mask(jnp.asarray(True))
    assert not is_prunable_mask(optax.MaskedNode())
    assert is_prunable_mask(jnp.ones(1, bool))


def _misfit(kernel=KEPT, **others):
    return {"layer": {"kernel": kernel, "bias": jnp.asarray(True), **others}}


MISFITS = {
    "a leaf is missing": ({"layer": {"kernel": KEPT}}, r"1 leaves, the parameters 2; .*layer/bias"),
    "a leaf too many": (_misfit(extra=KEPT), r"layer/extra"),
    "another name": ({"layer": {"weight": KEPT, "bias": jnp.asarray(True)}}, r"layer/weight"),
    "None where a leaf is dense": (_misfit(bias=None), r"0-d True where a leaf is not prunable"),
    "another shape": (_misfit(KEPT.T), r"'layer/kernel' has shape \(3, 2\).*\(2, 3\)"),
    "another rank": (_misfit(KEPT[0]), r"'layer/kernel' has shape \(3,\)"),
    "no bools": (_misfit(KEPT * 1.0), r"'layer/kernel' has dtype float32; masks are bool"),
}
USES = {
    "validate": lambda masks: sparsejax.masks.validate(masks, PARAMS),
    "apply_masks": lambda masks: sparsejax.apply_masks(PARAMS, masks),
    "summarize": lambda masks: sparsejax.summarize(PARAMS, masks),
    "fixed": lambda masks: sparsejax.sparsify(optax.sgd(0.1), sparsejax.rules.fixed_masks(masks)).init(
        PARAMS
    ),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("case", MISFITS)
def test_a_mask_tree_that_does_not_fit_is_refused_by_path(case, use):
    masks, message = MISFITS[case]
    with pytest.raises(MaskError, match=message):
        USES[use](masks)


def test_masks_of_other_parameters_cannot_be_compared():
    with pytest.raises(MaskError, match="different layers: 'a'"):
        sparsejax.masks.jaccard({"a": KEPT}, {"b": KEPT})


def test_a_scalar_false_is_no_mask():
    with pytest.raises(sparsejax.errors.MaskError, match=r"'w'.*0-d False"):
        sparsejax.masks.validate({"w": jnp.asarray(False)}, {"w": jnp.ones((2, 2))})
