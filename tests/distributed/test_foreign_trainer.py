"""Masks inside a trainer that is not ours: FSDP, scanned layers, rematerialisation; eight devices do what one does."""

import jax
import numpy as np
import pytest

from tests.distributed import fsdp_trainer as trainer
from tests.distributed.hlo import named
from tests.distributed.launch import Run, finish

#: The default run looks at RigL on layers without attention, which have the same scan, sharding and rematerialisation.
CASES = ["small-rigl", *(pytest.param(case, marks=pytest.mark.slow) for case in ("rigl", "gmp"))]


def _train(*methods, small=False):
    """Facts and arrays of the same training on the one device of this process, and on 2 × 4."""
    eight = Run("fsdp_trainer", "--devices", "8", *(["--small"] if small else []), "--methods", *methods)
    try:
        with jax.enable_x64(True):
            one = trainer.train_all(methods, None, small)
    except BaseException:
        eight.close()
        raise
    return [one, *finish([eight], patience=300)]


@pytest.fixture(scope="module")
def small():
    """What the default run looks at."""
    return _train("rigl", small=True)


@pytest.fixture(scope="module")
def whole():
    """What the slow tests look at."""
    return _train("rigl", "gmp", "dense")


@pytest.fixture
def runs(case, request):
    """One device and eight, of a case."""
    return request.getfixturevalue("small" if case.startswith("small") else "whole")


def _method(case):
    return case.rpartition("-")[2]


def _kernels(case):
    return [path for path in trainer.paths(case.startswith("small")) if path.endswith("kernel")]


@pytest.mark.parametrize("case", CASES)
def test_eight_devices_train_what_one_trains(case, runs):
    (one, arrays), (eight, found) = runs
    method = _method(case)
    # float64: gradients are summed in another order, which changes digits that no test of this length sees.
    np.testing.assert_allclose(eight[method]["losses"], one[method]["losses"], rtol=1e-9)
    assert one[method]["losses"][-1] < one[method]["losses"][0] - 0.2
    assert eight[method]["changes"] == one[method]["changes"] >= 3
    for path in _kernels(case):
        np.testing.assert_array_equal(
            found[f"{method}/mask/{path}"], arrays[f"{method}/mask/{path}"], err_msg=path
        )
    for name in arrays:
        if name.startswith(f"{method}/param/"):
            np.testing.assert_allclose(found[name], arrays[name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_zero_off_their_masks_and_every_layer_of_the_stack_is_one(case, runs):
    _, (_, found) = runs
    kept_of_all, of_all = 0, 0
    for path in _kernels(case):
        mask, param = found[f"{_method(case)}/mask/{path}"], found[f"{_method(case)}/param/{path}"]
        assert not param[~mask].any()
        kept_of_all, of_all = kept_of_all + mask.sum(), of_all + mask.size
        if path.startswith("layers/"):  # the trace says that the second axis is the stack
            kept = mask.sum(axis=(0, *range(2, mask.ndim)))
            assert len(set(kept.tolist())) == 1
            assert 0 < kept[0] < mask[:, 0].size
    assert kept_of_all / of_all == pytest.approx(0.25, abs=0.001)


@pytest.mark.parametrize("case", CASES)
def test_masks_and_moments_lie_as_their_parameters(case, runs):
    _, (facts, _) = runs
    found = facts[_method(case)]["parts"]
    assert set(found) == set(_kernels(case))
    for path, parts in found.items():
        assert parts == [4] * 4, path  # the parameter, two moments, the mask


@pytest.mark.slow
def test_masks_move_nothing_that_the_dense_step_does_not(whole):
    moves = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    _, (facts, _) = whole
    dense = named(facts["dense"]["operations"], *moves)
    assert max(dense) >= 2048  # the trainer gathers its layers; else this would compare nothing
    for method in ("gmp", "rigl"):
        found = named(facts[method]["operations"], *moves)
        assert max(found) <= max(dense)
        assert sum(found) <= 1.05 * sum(dense)
