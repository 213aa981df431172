"""8 simulated devices with sharded parameters: the masks of one device, sharded alike, and no data moved."""

import math

import numpy as np
import pytest

from tests.distributed import layouts
from tests.distributed.hlo import named
from tests.distributed.launch import Run, finish
from tests.distributed.run_recipes import run_jobs

MESH = {"data": 4, "model": 2}
MOVES = ("all-gather", "all-to-all", "collective-permute", "collective-broadcast", "reduce-scatter")
#: Run by default: every pattern and layout, exchanged masks, a population. Elsewhere it is the same code that compiles.
FIRST = ("gmp", "rigl")
REST = tuple(name for name in layouts.recipes() if name not in FIRST)
#: What says nothing on one device.
MESH_ALONE = ("canary", "repeated")
RECIPES = [*FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)]


def _side_by_side(*jobs: str) -> list[tuple[dict, dict]]:
    """Facts and arrays of these jobs on the one device of this process, and on a simulated mesh of 4 × 2."""
    eight = Run("run_recipes", "--mesh", "4", "2", "--recipes", *jobs)
    try:
        one = run_jobs([job for job in jobs if job not in MESH_ALONE], None)
    except BaseException:
        eight.close()
        raise
    return [one, *finish([eight], patience=200)]


@pytest.fixture(scope="module")
def first():
    """What the default run looks at."""
    return _side_by_side(*FIRST, "population", "canary", "repeated")


@pytest.fixture(scope="module")
def rest():
    """What the slow tests look at."""
    return _side_by_side(*REST, "training")


@pytest.fixture
def runs(request):
    """One device and eight, of the recipe that a test names, or of the default run."""
    recipe = getattr(request.node, "callspec", None) and request.node.callspec.params.get("recipe")
    return request.getfixturevalue("rest" if recipe in (*REST, "training") else "first")


@pytest.fixture
def one(runs):
    return runs[0]


@pytest.fixture
def eight(runs):
    return runs[1]


def _expected_parts(path: str) -> int:
    axes = [name for entry in layouts.LAYOUTS[path][1] if entry for name in np.atleast_1d(entry)]
    return math.prod(MESH[str(name)] for name in axes)


def test_the_runs_have_one_and_eight_devices(one, eight):
    assert (one[0]["devices"], eight[0]["devices"]) == (1, 8)
    assert sum(_expected_parts(path) == 8 for path in layouts.LAYOUTS) == 7


@pytest.mark.parametrize("when", ["init", "end"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_masks_and_moments_are_sharded_like_the_parameters(eight, recipe, when):
    facts = eight[0][recipe][when]
    assert facts["misplaced"] == []
    for name, parts in facts["parts"].items():
        kind, path = name.split(" ")
        if (recipe, kind, path) == ("gmp", "masks", "attention/out/kernel"):
            assert parts == MESH["data"]  # one bool a channel: not along the axes that it broadcasts over
        else:
            assert parts == _expected_parts(path), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_run_is_bitwise_that_of_one_device(one, eight, recipe):
    names = [name for name in one[1] if name.startswith(f"{recipe}/")]
    assert sum("/end/mask/" in name for name in names) == len(
        [path for path in layouts.recipes()[recipe].paths if path.endswith("kernel")]
    )
    for name in names:
        np.testing.assert_array_equal(eight[1][name], one[1][name], err_msg=name)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_mask_is_sparse_and_the_parameters_are_on_it(eight, recipe):
    for name, mask in eight[1].items():
        if name.startswith(f"{recipe}/end/mask/"):
            assert 0 < mask.mean() < 1, name
            param = eight[1][name.replace("/mask/", "/param/")]
            assert not param[~np.broadcast_to(mask, param.shape)].any(), name


@pytest.mark.parametrize("recipe", ["rigl", pytest.param("set", marks=pytest.mark.slow)])
def test_exchanged_masks_have_changed_and_kept_their_counts(eight, recipe):
    for name, before in eight[1].items():
        if name.startswith(f"{recipe}/init/mask/"):
            after = eight[1][name.replace("/init/", "/end/")]
            assert (before != after).any(), name
            assert before.sum() == after.sum(), name


def test_the_reader_of_programs_sees_a_gather_and_a_sort(eight):
    operations = eight[0]["canary"]["operations"]
    assert named(operations, "all-gather") == [64]
    assert named(operations, "sort") == [64]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_moves_nothing_and_reduces_counts_only(eight, recipe):
    operations = eight[0][recipe]["operations"]
    assert named(operations, *MOVES) == []
    assert named(operations, "sort") == []
    # Counts of a layer, or of a stack's layers; the 16 are the channels of which a device holds a part.
    assert max(named(operations, "all-reduce"), default=0) <= 16
    assert bool(named(operations, "all-reduce")) == (recipe != "static")


def test_the_step_compiles_once(eight):
    assert eight[0]["repeated"]["programs"] == [1, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["training"])
def test_training_moves_what_plain_training_moves(eight, recipe):
    facts = eight[0][recipe]
    assert named(facts["plain_operations"], "all-gather") != []
    for name in MOVES:
        assert named(facts["operations"], name) == named(facts["plain_operations"], name)
    added = named(facts["operations"], "all-reduce")
    for size in named(facts["plain_operations"], "all-reduce"):
        added.remove(size)
    assert max(added) <= 4  # the counts of the stack's four layers
    assert named(facts["operations"], "sort") == []
    assert facts["moved"] == []


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["training"])
def test_training_agrees_to_reduction_order(one, eight, recipe):
    losses = eight[0][recipe]["losses"]
    np.testing.assert_allclose(losses, one[0][recipe]["losses"], rtol=1e-4)
    assert losses[-1] < 0.6 * losses[0]
    for name, mask in one[1].items():
        if name.startswith("training/mask/"):
            assert mask.sum() == eight[1][name].sum()
            assert (mask == eight[1][name]).mean() > 0.99


def test_a_sharded_population_is_the_one_of_one_device(one, eight):
    names = [name for name in one[1] if name.startswith("population/")]
    assert len(names) == 5
    for name in names:
        np.testing.assert_array_equal(eight[1][name], one[1][name], err_msg=name)


def test_a_sharded_population_keeps_one_cond_and_its_members_apart(eight):
    facts = eight[0]["population"]
    assert facts["conditionals"] == 1
    assert set(facts["params"].values()) == set(facts["masks"].values()) == {8}
    # The members' searches end together: one bool is reduced, nothing else crosses devices.
    assert {name for name, _ in facts["operations"]} == {"all-reduce"}
    assert {size for _, size in facts["operations"]} == {1}


def test_each_member_has_its_own_sparsity_and_key(eight):
    kept = eight[1]["population/mask/Dense_0/kernel"].sum((1, 2)).tolist()
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == len(kept)
    masks = eight[1]["population/mask/Dense_1/kernel"]
    assert all((masks[0] != other).any() for other in masks[1:])
