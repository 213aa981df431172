"""Selection against NumPy's stable sort, hand-worked tables, and the transformations it must live in."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsejax.errors import ScoreError
from sparsejax.selection import top_k_mask
from sparsejax.selection.rank_keys import rank_keys
from sparsejax.selection.top_k import check_scores, global_counts

FLOATS = st.floats(width=32)
FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38])


def expected_mask(scores: np.ndarray, k: int) -> np.ndarray:
    """The mask of the `k` best by NumPy's stable sort of (is NaN, -score): ties in order, NaN last."""
    flat = np.asarray(scores, np.float64).ravel()
    order = np.lexsort((np.where(np.isnan(flat), 0.0, -flat), np.isnan(flat)))
    mask = np.zeros(flat.size, bool)
    mask[order[:k]] = True
    return mask.reshape(np.shape(scores))


def values_of(kind: str, size: int) -> np.ndarray:
    """Scores of one of the distributions that pruning meets, or should survive."""
    rng = np.random.default_rng(size)
    normal = rng.normal(size=size)
    return {
        "normal": lambda: np.abs(normal),
        "signed": lambda: normal,
        "negative": lambda: -np.abs(normal),
        "lognormal": lambda: rng.lognormal(0, 3, size),
        "mostly zero": lambda: np.where(rng.random(size) < 0.9, 0, normal),
        "few values": lambda: rng.integers(0, 5, size) / 4,
        "constant": lambda: np.ones(size),
        "subnormal": lambda: rng.integers(-1000, 1000, size) * 1e-45,
        "special": lambda: rng.choice([np.inf, -np.inf, 0, -0.0, 1, np.nan], size),
        "huge range": lambda: np.exp(rng.uniform(-87, 87, size)),
        "ascending": lambda: np.arange(size) / 7,
        "outlier": lambda: np.where(np.arange(size) == size // 2, 1e30, 1e-30 * normal),
    }[kind]().astype(np.float32)


KINDS = [
    "normal", "signed", "negative", "lognormal", "mostly zero", "few values", "constant", "subnormal", "special",
    "huge range", "ascending", "outlier",
]  # fmt: skip


# --- keys ---------------------------------------------------------------------------------------------------


@given(FLOATS, FLOATS)
@settings(deadline=None)
def test_keys_keep_the_order(a: float, b: float) -> None:
    # Compared as float64, since a processor may flush float32 subnormals to zero.
    left, right = np.float64(np.float32(a)), np.float64(np.float32(b))
    key_a, key_b = rank_keys(jnp.array([a, b], jnp.float32)).tolist()
    if np.isnan(left) or np.isnan(right):
        assert (key_a < key_b, key_a > key_b) == (
            np.isnan(left) > np.isnan(right),
            np.isnan(left) < np.isnan(right),
        )
    else:
        assert (key_a < key_b, key_a > key_b) == (left < right, left > right)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_types_are_widened_exactly(dtype: jnp.dtype) -> None:
    every = jnp.arange(2**16, dtype=jnp.uint16).view(dtype)
    wide_values = np.asarray(every.astype(jnp.float32))
    numbers = ~np.isnan(wide_values)
    keys = np.asarray(rank_keys(every))
    order = np.argsort(wide_values[numbers].astype(np.float64), kind="stable")
    steps = np.sign(np.diff(keys[numbers][order].astype(np.int64)))
    assert np.array_equal(steps, np.sign(np.diff(wide_values[numbers][order].astype(np.float64))))
    assert keys[~numbers].max() < keys[numbers].min()


# --- one ranking --------------------------------------------------------------------------------------------

TABLE = [
    # scores, k, kept
    ([3, 1, 2, 3], 0, "...."),
    ([3, 1, 2, 3], 1, "x..."),
    ([3, 1, 2, 3], 2, "x..x"),
    ([3, 1, 2, 3], 3, "x.xx"),
    ([3, 1, 2, 3], 4, "xxxx"),
    ([3, 1, 2, 3], 9, "xxxx"),
    ([0, -0.0, 0, -0.0], 3, "xxx."),
    ([-1, -2, -3], 1, "x.."),
    ([np.nan, -np.inf, 1], 2, ".xx"),
    ([np.nan, np.nan, -np.inf], 2, "x.x"),
    ([np.inf, 3e38, np.inf], 2, "x.x"),
    ([1e-45, 0, 2e-45], 2, "x.x"),
    ([5], 1, "x"),
    ([5], 0, "."),
]


@pytest.mark.parametrize(("scores", "k", "kept"), TABLE)
def test_hand_worked_masks(scores: list[float], k: int, kept: str) -> None:
    mask = top_k_mask(jnp.array(scores, jnp.float32), k)
    assert "".join("x" if m else "." for m in mask) == kept


@pytest.mark.parametrize("size", [1, 2, 63, 513, 4096, 5003, 70_001])
@pytest.mark.parametrize("kind", KINDS)
def test_mask_is_the_stable_sorts(kind: str, size: int) -> None:
    scores = values_of(kind, size)
    held = jnp.asarray(scores)
    for k in sorted({0, 1, size // 100, size // 10, size // 2, size - 1, size}):
        assert np.array_equal(top_k_mask(held, jnp.int32(k)), expected_mask(scores, k)), k


@given(hnp.arrays(np.float32, (3, 5, 4), elements=st.one_of(FEW, FLOATS)), st.integers(0, 60))
@settings(deadline=None)
def test_any_floats(scores: np.ndarray, k: int) -> None:
    assert np.array_equal(top_k_mask(scores_of(scores), jnp.int32(k)), expected_mask(scores, k))


def scores_of(scores: np.ndarray) -> jax.Array:
    """Puts scores on the device without a computation that could flush subnormals."""
    return jax.device_put(scores)


@pytest.mark.parametrize("shape", [(17,), (17, 1), (3, 5, 7), (2, 3, 4, 5), (2, 1, 3, 4, 5)])
def test_shapes(shape: tuple[int, ...]) -> None:
    scores = values_of("few values", int(np.prod(shape))).reshape(shape)
    assert np.array_equal(top_k_mask(jnp.asarray(scores), 9), expected_mask(scores, 9))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtypes(dtype: jnp.dtype) -> None:
    scores = jnp.asarray(values_of("signed", 3000)).astype(dtype)
    assert np.array_equal(top_k_mask(scores, 700), expected_mask(np.asarray(scores.astype(jnp.float32)), 700))


def test_double_precision_mode() -> None:
    with jax.enable_x64(True):
        scores = jnp.asarray(values_of("signed", 3000), jnp.float64)
        mask = top_k_mask(scores, jnp.int64(700))
        assert np.array_equal(mask, expected_mask(np.asarray(scores), 700))
        assert int(global_counts([scores, scores], jnp.int64(700))[0]) == 350


def test_scalars_and_empty_arrays() -> None:
    assert bool(top_k_mask(jnp.float32(2), 1))
    assert not bool(top_k_mask(jnp.float32(2), 0))
    assert top_k_mask(jnp.zeros((0, 3)), 2).shape == (0, 3)


# --- slices and candidates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "stacked"),
    [
        ((4, 30), (0,)),
        ((30, 4), (1,)),
        ((2, 9, 3), (0, 2)),
        ((2, 9, 3), (2, 0)),
        ((6, 1500), (-2,)),
        ((3, 2), (0, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["signed", "few values"])
def test_stacked_layers_are_ranked_alone(shape: tuple[int, ...], stacked: tuple[int, ...], kind: str) -> None:
    scores = values_of(kind, int(np.prod(shape))).reshape(shape)
    layers = np.moveaxis(scores, stacked, range(len(stacked)))
    batch = layers.shape[: len(stacked)]
    size = layers[(0,) * len(stacked)].size
    k = np.random.default_rng(1).integers(0, size + 1, batch).astype(np.int32)
    expected = np.stack([expected_mask(layers[i], k[i]) for i in np.ndindex(*batch)]).reshape(layers.shape)
    mask = top_k_mask(jnp.asarray(scores), k, stacked=stacked)
    assert np.array_equal(mask, np.moveaxis(expected, range(len(stacked)), stacked))
    if len(stacked) == 1:  # one count for all layers is another program
        one = np.stack([expected_mask(layers[i], 1) for i in np.ndindex(*batch)]).reshape(layers.shape)
        expected = np.moveaxis(one, range(len(stacked)), stacked)
        assert np.array_equal(top_k_mask(scores, 1, stacked=stacked), expected)


@given(
    hnp.arrays(np.float32, (4, 6), elements=st.one_of(FEW, FLOATS)),
    hnp.arrays(bool, (4, 6)),
    st.integers(0, 24),
)
@settings(deadline=None)
def test_only_candidates_are_chosen(scores: np.ndarray, where: np.ndarray, k: int) -> None:
    expected = np.zeros(scores.shape, bool)
    expected[where] = expected_mask(scores[where], k)
    assert np.array_equal(top_k_mask(scores_of(scores), jnp.int32(k), where=jnp.asarray(where)), expected)


def test_candidates_broadcast() -> None:
    columns = jnp.array([True, False, True])
    mask = top_k_mask(jnp.ones((2, 3)), 3, where=columns)
    assert mask.tolist() == [[True, False, True], [True, False, False]]


# --- where it is called from --------------------------------------------------------------------------------


def test_inside_jit_vmap_scan_and_cond() -> None:
    scores = np.stack([values_of(kind, 600) for kind in ("signed", "few values", "constant", "special")])
    k = np.array([0, 123, 599, 600], np.int32)
    expected = np.stack([expected_mask(row, n) for row, n in zip(scores, k, strict=True)])
    assert np.array_equal(jax.jit(jax.vmap(top_k_mask))(scores, k), expected)
    assert np.array_equal(
        jax.vmap(lambda n: top_k_mask(scores[1], n))(k), [expected_mask(scores[1], n) for n in k]
    )

    def update(mask: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        due = row[1] > 0
        mask = jax.lax.cond(due, lambda: top_k_mask(*row), lambda: mask)
        return mask, mask

    masks = jax.lax.scan(update, jnp.ones(600, bool), (scores, k))[1]
    assert np.array_equal(masks, np.concatenate([np.ones((1, 600), bool), expected[1:]]))


def test_gradients_pass_by_the_selection() -> None:
    weights = jnp.array([3.0, -1.0, 2.0])
    gradient = jax.grad(lambda w: jnp.sum(jnp.where(top_k_mask(jnp.abs(w), 2), w**2, 0.0)))(weights)
    assert gradient.tolist() == [6.0, 0.0, 4.0]


def _lowered(size: int) -> jax.stages.Lowered:
    return jax.jit(lambda s, k: top_k_mask(s, k)).lower(jnp.zeros(size), jnp.int32(1))


def test_nothing_large_is_sorted_or_copied() -> None:
    size = 1 << 20
    lowered = _lowered(size)
    sorts = re.findall(r"stablehlo\.sort.*?tensor<(\d+)xi32>\) ->", lowered.as_text(), re.DOTALL)
    assert sorts
    assert all(int(count) <= 5000 for count in sorts)
    # The keys and the index are computed where they are read: an array of either would be 4 MB.
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 2 * size


# --- more than 31 bits --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_slice_of_more_than_31_bits() -> None:
    """bfloat16 scores with 16 values, so that the cut falls among ties; two minutes and 5 GB on 2 cores."""
    rows, columns, k = 2**15 + 1, 2**16, 2**31 - 12_345
    scores = jnp.broadcast_to((jnp.arange(columns) % 16).astype(jnp.bfloat16), (rows, columns)) + 0
    kept = np.asarray(jnp.sum(top_k_mask(scores, k), axis=1))
    assert int(kept.sum(dtype=np.int64)) == k


# --- errors -------------------------------------------------------------------------------------------------


def test_nan_is_refused_by_name() -> None:
    with pytest.raises(ScoreError, match=r"'layers/0/kernel' \(3,\) hold 2 NaN"):
        check_scores("layers/0/kernel", jnp.array([1.0, np.nan, np.nan]))
    check_scores("a", jnp.array([1.0, np.inf]))
    jax.jit(lambda s: check_scores("a", s))(jnp.array([np.nan]))  # traced scores have no values yet


ERRORS: list[tuple[Callable[[], object], str]] = [
    (lambda: top_k_mask(jnp.arange(3), 1), "int32"),
    (lambda: top_k_mask(jnp.ones((2, 3)), 1, stacked=(2,)), r"stacked=\(2,\)"),
    (lambda: top_k_mask(jnp.ones((2, 3)), 1, stacked=(0, -2)), "twice"),
    (lambda: top_k_mask(jnp.ones((2, 3)), jnp.array([1, 2, 3]), stacked=(0,)), r"k \(3,\)"),
    (lambda: top_k_mask(jnp.ones((2, 3)), 1, where=jnp.ones(2, bool)), r"where \(2,\)"),
    (lambda: top_k_mask(jax.ShapeDtypeStruct((2**31,), jnp.float32), 1), "reshape"),
    (lambda: global_counts([jnp.ones(3)], 1, unit_sizes=[1, 2]), "2 unit sizes"),
    (lambda: global_counts([jnp.ones(3)], 1, unit_sizes=[0]), "Unit sizes"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_errors_say_what_came(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        call()
