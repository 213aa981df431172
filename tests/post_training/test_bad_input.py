"""What solvers do with calibration that is poor or wrong: typed errors, warnings, and sound results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import CalibrationError, MaskError, PatternError, SparsityError
from sparsejax.patterns import NM, Block, Channel
from sparsejax.post_training import (
    CalibrationWarning,
    choose_by_sensitivity,
    global_masks,
    gptq,
    layer_error,
    magnitude_mask,
    owl,
    perplexity,
    prune_model,
    reconstruct,
    refine_by_swaps,
    resolve_weights,
    ria_mask,
    sensitivity,
    solve_alps,
    solve_sparsegpt,
    wanda_mask,
)
from tests.helpers import assert_wrong_kinds_are_refused
from tests.post_training import papers

SOLVERS = [solve_sparsegpt, solve_alps]


@pytest.mark.parametrize("solve", SOLVERS)
def test_dead_inputs_get_no_weight_and_harm_nothing(solve):
    w, gram = papers.problem()
    gram[[3, 17]] = gram[:, [3, 17]] = 0
    found = solve(w, gram, sparsity=0.5)
    assert not np.any(np.asarray(found.weights)[:, [3, 17]])
    assert layer_error(w, found.weights, gram) < 0.1


@pytest.mark.parametrize("solve", SOLVERS)
def test_all_inputs_dead(solve):
    w, gram = papers.problem()
    found = solve(w, 0 * gram, sparsity=0.5)
    assert not np.any(np.asarray(found.weights))
    assert int(np.sum(found.mask)) == w.size // 2


@pytest.mark.parametrize("solve", SOLVERS)
def test_null_directions_are_harmless(solve):
    """What a layer norm gives: features that sum to zero in every row."""
    w, gram = papers.problem()
    centre = np.eye(32) - 1 / 32
    found = solve(w, centre @ gram @ centre, sparsity=0.5)
    assert np.all(np.isfinite(np.asarray(found.weights)))
    assert np.abs(found.weights).max() < 20 * np.abs(w).max()


def test_damping_is_raised_until_the_factorisation_succeeds_and_reported():
    w, _ = papers.problem()
    x = np.random.default_rng(0).normal(size=(10, 32))  # rank 10 of 32
    with pytest.warns(CalibrationWarning, match="could not be factored with damping 0"):
        found = solve_sparsegpt(w, x.T @ x - 1e-3 * np.eye(32), sparsity=0.5, damping=0.0)
    assert 0 < found.damping <= 1e-2
    assert np.all(np.isfinite(np.asarray(found.weights)))


def test_a_matrix_that_is_no_gram_matrix_is_refused():
    w, gram = papers.problem()
    gram = gram - 100 * np.outer(np.arange(32) < 2, np.arange(32) < 2) + 101 * np.diag(np.arange(32) < 2)
    with pytest.raises(CalibrationError, match="not positive semidefinite"):
        solve_sparsegpt(w, gram, sparsity=0.5)


@pytest.mark.parametrize("solve", SOLVERS)
def test_few_rows_are_warned_of(solve):
    w, gram = papers.problem()
    with pytest.warns(CalibrationWarning, match="159 calibration rows for 32 inputs"):
        solve(w, gram, sparsity=0.5, count=159)
    solve(w, gram, sparsity=0.5, count=160)


def test_few_rows_hide_the_error_that_held_out_rows_show():
    rng = np.random.default_rng(0)
    mixing, w = rng.normal(size=(32, 64)), rng.normal(size=(8, 64))
    few, many = (rng.normal(size=(n, 32)) @ mixing + rng.normal(size=(n, 64)) for n in (40, 4000))
    found = solve_alps(w, few.T @ few, sparsity=0.5, damping=1e-3)
    assert layer_error(w, found.weights, few.T @ few) < 0.2 * layer_error(w, found.weights, many.T @ many)


@pytest.mark.parametrize("solve", SOLVERS)
def test_what_does_not_fit_is_refused(solve):
    w, gram = papers.problem()
    for bad, match in ((gram[:31], "do not fit"), (gram * np.nan, "Gram matrix .* not finite")):
        with pytest.raises(CalibrationError, match=match):
            solve(w, bad, sparsity=0.5)
    for bad in (np.triu(gram), -gram):
        with pytest.raises(CalibrationError, match="not symmetric, or negative"):
            solve(w, bad, sparsity=0.5)
    with pytest.raises(CalibrationError, match=r"weights .* not finite"):
        solve(np.where(w > 2, np.inf, w), gram, sparsity=0.5)
    with pytest.raises(CalibrationError, match="damping"):
        solve(w, gram, sparsity=0.5, damping=-0.1)
    with pytest.raises(SparsityError, match="percentage"):
        solve(w, gram, sparsity=50)
    with pytest.raises(SparsityError, match="missing"):
        solve(w, gram)
    with pytest.raises(SparsityError, match=r"the pattern 2:4 has 0\.5"):
        solve(w, gram, sparsity=0.6, pattern=NM(2, 4))
    with pytest.raises(PatternError, match="divisible by 3"):
        solve(w, gram, pattern=NM(1, 3))
    with pytest.raises(PatternError, match="divisible by 64"):
        solve(w, gram, pattern=NM(2, 4, stride=16))
    with pytest.raises(PatternError, match="prune_structured"):
        solve(w, gram, sparsity=0.5, pattern=Channel())
    with pytest.raises(MaskError, match="bool mask"):
        solve(w, gram, sparsity=0.5, mask=np.ones((3, 3), bool))
    with pytest.raises(MaskError, match="parts of blocks"):
        solve(w, gram, sparsity=0.5, pattern=Block(4, 4), mask=w > 0)


def test_wrong_options_are_refused():
    w, gram = papers.problem()
    mask = w > 0
    for call in (
        lambda: solve_sparsegpt(w, gram, sparsity=0.5, order="sorted"),
        lambda: solve_sparsegpt(w, gram, sparsity=0.5, block=0),
        lambda: solve_alps(w, gram, sparsity=0.5, penalty=0.0),
        lambda: refine_by_swaps(w, gram, mask, candidates=0),
        lambda: resolve_weights(w, gram, mask, start=w[:3]),
        lambda: resolve_weights(w, gram, mask, tolerance=np.nan),
        lambda: resolve_weights(w, gram, mask, iterations=-1),
        lambda: solve_alps(w, gram, sparsity=0.5, resolve_iterations=-1),
        lambda: layer_error(w, w[:3], gram),
        lambda: wanda_mask(w, -np.ones(32), sparsity=0.5),
        lambda: wanda_mask(w, np.ones(31), sparsity=0.5),
    ):
        with pytest.raises(CalibrationError):
            call()
    with pytest.raises(PatternError, match="scope"):
        magnitude_mask(w, sparsity=0.5, scope="column")


def _small():
    params = {"a": {"kernel": jnp.ones((16, 8))}, "b": {"kernel": jnp.ones((8, 4))}}
    batches = [jnp.eye(16), jnp.eye(16) + 1]
    return (lambda p, x: x @ p["a"]["kernel"] @ p["b"]["kernel"]), params, batches


def _on_matrices(solve, **needed):
    w, gram = papers.problem()
    more = (w > 0,) if solve in (refine_by_swaps, resolve_weights) else ()
    return lambda **wrong: solve(w, gram, *more, **{**needed, **wrong})


def _on_models(call, **needed):
    return lambda **wrong: call(*_small(), **{**needed, **wrong})


def _reconstruct(**wrong):
    fn, params, batches = _small()
    masks = jax.tree.map(lambda leaf: leaf > 0, params)
    return reconstruct(fn, params, masks, batches, **{"dense": params, "steps": 1, **wrong})


def _constant(params, tokens):
    return jnp.zeros((*tokens.shape, 5))


def _choose(**wrong):
    curves = {"a/kernel": [0.1, 0.2], "b/kernel": [0.1, 0.3]}
    return choose_by_sensitivity(curves, _small()[1], **{"sparsity": 0.5, "candidates": (0.4, 0.8), **wrong})


@pytest.mark.filterwarnings("ignore::sparsejax.post_training.CalibrationWarning")
@pytest.mark.parametrize(
    ("function", "call"),
    [
        (solve_sparsegpt, _on_matrices(solve_sparsegpt, sparsity=0.5)),
        (solve_alps, _on_matrices(solve_alps, sparsity=0.5)),
        (refine_by_swaps, _on_matrices(refine_by_swaps)),
        (resolve_weights, _on_matrices(resolve_weights)),
        (prune_model, _on_models(prune_model, solve=solve_sparsegpt, sparsity=0.5)),
        (owl, _on_models(owl, sparsity=0.5)),
        (sensitivity, _on_models(sensitivity)),
        (reconstruct, _reconstruct),
        (gptq, _on_models(gptq)),
        (ria_mask, lambda **wrong: ria_mask(papers.problem()[0], np.ones(32), **{"sparsity": 0.5, **wrong})),
        (perplexity, lambda **wrong: perplexity(_constant, {}, np.zeros(99, int), 8, **wrong)),
        (choose_by_sensitivity, _choose),
    ],
)
def test_what_is_of_no_kind_at_all_is_refused_in_our_words(function, call):
    assert_wrong_kinds_are_refused(function, call)


def test_one_mask_may_stand_for_a_whole_tree():
    """Of a mask tree a 0-d True says that all below it stays."""
    fn, params, batches = _small()
    batches = [jnp.tile(batch, (8, 1)) for batch in batches]
    pruned = prune_model(fn, params, batches, solve=solve_sparsegpt, sparsity=0.5, masks=jnp.asarray(True))
    assert pruned.layers["a/kernel"].sparsity == 0.5
    assert not gptq(fn, params, batches, masks=jnp.asarray(True)).layers["a/kernel"].sparsity
    whole = reconstruct(
        fn, params, {"a": jnp.asarray(True), "b": {"kernel": jnp.eye(8, 4) > 0}}, batches, dense=params
    )
    assert jnp.all(whole.params["b"]["kernel"] * (1 - jnp.eye(8, 4)) == 0)


@pytest.mark.parametrize("solve", SOLVERS)
def test_weights_that_a_solver_could_not_give_back_are_refused(solve):
    """Integers would be cut, complex numbers lose a part; of nothing nothing can be removed."""
    w, gram = papers.problem()
    for bad, text in (
        ((5 * w).astype(np.int32), "weights are int32"),
        (w + 1j, "weights are complex128"),
        (w.tolist(), "weights are list"),
        (w[:0], "there must be a weight"),
    ):
        with pytest.raises(CalibrationError, match=text):
            solve(bad, gram, sparsity=0.5)
    with pytest.raises(CalibrationError, match="there must be a weight"):
        solve(w[:, :0], gram[:0, :0], sparsity=0.5)
    with pytest.raises(CalibrationError, match="must be real"):
        solve(w, gram + 0j, sparsity=0.5)
    with pytest.raises(CalibrationError, match="damping is None"):
        solve(w, gram, sparsity=0.5, damping=None)


def test_magnitudes_that_cannot_be_compared_are_refused():
    w, _ = papers.problem()
    for bad in (np.where(w > 2, np.nan, w), w[0], w[None], w + 1j):
        with pytest.raises(CalibrationError, match=r"not real, or not finite|must be \(outputs, inputs\)"):
            magnitude_mask(bad, sparsity=0.5)
    with pytest.raises(CalibrationError, match="not finite"):
        global_masks([jnp.asarray(w), jnp.full((2, 2), jnp.nan)], sparsity=0.5)
    assert magnitude_mask(w.tolist(), sparsity=0.5).tolist() == magnitude_mask(w, sparsity=0.5).tolist()


def test_swaps_refuse_a_mask_that_keeps_what_is_not_allowed():
    w, gram = papers.problem()
    with pytest.raises(MaskError, match="keeps weights that `allowed` removed"):
        refine_by_swaps(w, gram, w > 0, allowed=w > 0.1)


def test_one_row_one_input_and_bfloat16():
    w, gram = papers.problem(outputs=1)
    assert int(np.sum(solve_sparsegpt(w, gram, sparsity=0.5).mask)) == 16
    half = jnp.asarray(w, jnp.bfloat16)
    for solve in SOLVERS:
        found = solve(half, gram, sparsity=0.5)
        assert found.weights.dtype == jnp.bfloat16
        assert np.all((np.asarray(found.weights) != 0) <= np.asarray(found.mask))
        assert solve(np.ones((2, 1)), np.ones((1, 1)), sparsity=0.5).mask.tolist() == [[True], [False]]
