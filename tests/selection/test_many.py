"""One search for many arrays: bit for bit what `top_k_mask` gives for each, whatever the scores, shapes and counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import ScoreError
from sparsejax.selection import top_k_mask
from sparsejax.selection.many import exchange_masks, top_k_masks
from sparsejax.selection.uint64 import widen
from tests.selection.test_top_k import expected_mask, values_of

KINDS = ("signed", "few values", "constant", "special", "mostly zero", "subnormal", "huge range")
# Shapes, and the axes that are separate: sizes that meet in a stack, that divide the lanes or not, sampled or not.
SHAPES = (
    ((7, 9), (1, 1), (63,), (1024, 64), (64, 1024), (3, 21, 3)),
    ((5, 40, 13), (40, 13), (13, 5, 40), (70_001,), (0, 4)),
)
STACKED = (((), (), (), (), (), (0, 2)), ((0,), (), (1,), (), ()))


def draw(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    values = values_of(kind, int(np.prod(shape))).astype(np.float32)
    return np.random.default_rng(seed).permutation(values).reshape(shape)


def counts_of(
    shape: tuple[int, ...], axes: tuple[int, ...], rng: np.random.Generator, form: str
) -> np.ndarray:
    batch = tuple(shape[axis] for axis in axes)
    most = int(np.prod(shape)) // max(int(np.prod(batch)), 1)
    if form == "ends":
        return rng.choice([0, 1, most, most + 3], batch)
    return rng.integers(0, most + 1, batch)


def cases(which: int, seed: int) -> tuple[list, list, list, list]:
    """Scores of all kinds in turn, counts inside and at the ends, and what each array of them should give."""
    rng, shapes, stacked = np.random.default_rng(seed), SHAPES[which], STACKED[which]
    scores = [jnp.asarray(draw(KINDS[(i + seed) % len(KINDS)], s, seed + i)) for i, s in enumerate(shapes)]
    form = "ends" if seed % 3 == 2 else "inside"
    counts = [counts_of(shape, axes, rng, form) for shape, axes in zip(shapes, stacked, strict=True)]
    return scores, counts, stacked, rng


def best(scores: jax.Array, counts: np.ndarray, axes: tuple[int, ...], where: np.ndarray) -> np.ndarray:
    """What `top_k_mask` gives of candidates, by NumPy's sort of each slice: nothing to compile for each shape."""
    kept = np.zeros(scores.shape, bool)
    slices, among, chosen = (
        np.moveaxis(a, axes, range(len(axes))) for a in (np.asarray(scores), where, kept)
    )
    for i in np.ndindex(counts.shape):
        chosen[i][among[i]] = expected_mask(slices[i][among[i]], counts[i])
    return kept


#: Every kind of scores at some array, counts inside and at the ends; with the slow seeds every kind at every array.
SEEDS = [range(4), pytest.param(range(4, 12), marks=pytest.mark.slow)]


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("which", [0, 1])
def test_many_give_what_each_gives_alone(which: int, seeds: range):
    together = jax.jit(lambda scores, counts: top_k_masks(scores, counts, stacked=STACKED[which]))
    for seed in seeds:
        scores, counts, stacked, _ = cases(which, seed)
        found = together(scores, counts)
        for mask, score, count, axes in zip(found, scores, counts, stacked, strict=True):
            np.testing.assert_array_equal(mask, top_k_mask(score, count, stacked=axes))


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("which", [0, 1])
def test_exchanges_are_two_selections(which: int, seeds: range):
    together = jax.jit(lambda *columns: exchange_masks(*columns, stacked=STACKED[which]))
    for seed in seeds:
        drop, survivors, stacked, rng = cases(which, seed)
        grow, grown, *_ = cases(which, seed + 1)
        active = [jnp.asarray(rng.random(scores.shape) < 0.4) for scores in drop]
        found = together(active, drop, grow, survivors, grown)
        for i, axes in enumerate(stacked):
            alive = best(drop[i], survivors[i], axes, np.asarray(active[i]))
            expected = alive | best(grow[i], grown[i], axes, ~alive)
            np.testing.assert_array_equal(found[i], expected)


def test_members_of_a_population_are_selected_each_for_itself():
    scores = [jnp.asarray(draw("signed", (4, *shape), 1)) for shape in ((30, 20), (600,), (7, 11))]
    counts = [jnp.array([0, 5, 60, 77])] * 3
    together = jax.vmap(lambda s, k: top_k_masks(s, k, stacked=[(), (), ()]))(scores, counts)
    for masks, score, count in zip(together, scores, counts, strict=True):
        for i in range(4):
            np.testing.assert_array_equal(masks[i], top_k_mask(score[i], count[i]))


def test_counts_of_any_width_and_none():
    scores = [jnp.arange(600.0), jnp.arange(5.0)]
    masks = top_k_masks(scores, [widen(2**40), 3], stacked=[(), ()])
    assert masks[0].all()
    assert masks[1].tolist() == [False, False, True, True, True]
    assert top_k_masks([], [], stacked=[]) == []
    negative = top_k_masks(scores, [jnp.int32(-4), jnp.int32(0)], stacked=[(), ()])
    assert not any(mask.any() for mask in negative)


def test_bfloat16_scores_are_ranked_exactly():
    scores = [jnp.asarray(draw("signed", (50, 30), 3), jnp.bfloat16), jnp.asarray(draw("signed", (1500,), 4))]
    for mask, score in zip(top_k_masks(scores, [400, 400], stacked=[(), ()]), scores, strict=True):
        np.testing.assert_array_equal(mask, top_k_mask(score, 400))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ScoreError, match="Scores must be floating"):
        top_k_masks([jnp.ones(3, jnp.int32)], [1], stacked=[()])
    with pytest.raises(ScoreError, match="must be a scalar or have the stacked axes' shape"):
        top_k_masks([jnp.ones((3, 4))], [jnp.array([1, 2])], stacked=[(0,)])
