"""Runs of the runner on 8 simulated devices: every layout, the masks of one device, and nothing gathered for them."""

from collections import Counter

import numpy as np
import pytest

from tests.distributed.hlo import named
from tests.distributed.launch import Run, finish
from tests.distributed.train_runs import MESHES, training_axes

MOVES = ("all-gather", "all-to-all", "collective-permute", "collective-broadcast", "reduce-scatter")
DEFAULT = ("mlp_rigl_one", "mlp_rigl_mixed", "operations:mlp_rigl_mixed", "checksums:mlp_rigl_mixed")
LONG = (
    *(f"mlp_rigl_{mesh}" for mesh in MESHES),
    *(f"mlp_gmp_{mesh}" for mesh in MESHES),
    *(f"gpt_gmp_{mesh}" for mesh in ("one", "mixed", "fsdp")),
    *("gpt_rigl_one", "gpt_rigl_tensor"),
    *("operations:mlp_gmp_fsdp", "operations:gpt_gmp_mixed"),
)
#: Into how many parts a mesh cuts the kernels of these models (and their embedding).
PARTS = {"one": 1, "data": 1, "fsdp": 8, "tensor": 8, "mixed": 4}


@pytest.fixture(scope="module")
def short():
    """One run and the same on a mixed mesh."""
    (result,) = finish([Run("train_runs", "--cases", *DEFAULT)], patience=200)
    return result


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Both models, both methods, every mesh."""
    data = str(tmp_path_factory.mktemp("data"))
    (result,) = finish([Run("train_runs", "--cases", *LONG, "--data", data)], patience=300)
    return result


def _check_run(result, case):
    facts, arrays = result
    one = f"{case.rsplit('_', 1)[0]}_one"
    names = [name.removeprefix(f"{one}/") for name in arrays if name.startswith(f"{one}/")]
    assert {name.split("/")[0] for name in names} == {"6", "12"}
    for name in names:
        np.testing.assert_array_equal(arrays[f"{case}/{name}"], arrays[f"{one}/{name}"], err_msg=name)
        if name.startswith("12/"):  # gradual pruning has only begun at step 6
            assert 0 < arrays[f"{case}/{name}"].mean() < 1
    assert facts[case]["updates"] == facts[one]["updates"] >= 3
    np.testing.assert_allclose(facts[case]["losses"], facts[one]["losses"], rtol=1e-5)
    assert facts[case]["losses"][-1] < facts[case]["losses"][0]


def _check_places(result, case, moments):
    """Parameters, masks, moments and averages of what is cut are cut alike, before the run and after it."""
    facts = result[0][case]
    assert facts["before"] == facts["after"]
    wanted = PARTS[case.rsplit("_", 1)[1]]
    kernels = {name: kinds for name, kinds in facts["after"].items() if not name.endswith("bias")}
    assert kernels
    for name, kinds in kernels.items():
        assert len(kinds) >= 3 + moments, (name, kinds)  # parameter, mask (not of the embedding), moments
        divided = {kind: parts for kind, parts in kinds.items() if parts != wanted}
        assert not divided, (name, kinds)


def _check_operations(found, largest):
    """The masks add reductions of counts to what a dense step moves, and nothing else."""
    sparse, dense = (Counter(map(tuple, found[kind]["operations"])) for kind in ("sparse", "dense"))
    added = list((sparse - dense).elements())
    assert named(added, *MOVES, "sort") == []
    assert 0 < len(named(added, "all-reduce"))
    assert max(named(added, "all-reduce")) <= largest
    assert not dense - sparse
    # One is the update, the other the count of what it changed.
    assert (found["sparse"]["conditionals"], found["dense"]["conditionals"]) == (2, 0)


def test_a_mixed_mesh_gives_the_masks_of_one_device(short):
    assert short[0]["devices"] == 8
    _check_run(short, "mlp_rigl_mixed")


def test_on_a_mixed_mesh_masks_and_moments_lie_as_parameters_do(short):
    assert short[0]["mlp_rigl_mixed"]["after"].keys() == {"dense_0/kernel", "dense_1/kernel"}
    _check_places(short, "mlp_rigl_mixed", moments=1)


def test_the_mask_update_gathers_nothing(short):
    facts = short[0]["operations:mlp_rigl_mixed"]
    assert named(facts["dense"]["operations"], "all-gather") != []
    _check_operations(facts, largest=1)


def test_checksums_do_not_depend_on_the_layout(short):
    facts = short[0]["checksums:mlp_rigl_mixed"]
    assert facts["cut"] == 8  # two kernels, their masks and both moments
    assert facts["sharded"] == facts["alone"]


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in LONG if ":" not in case and not case.endswith("_one")])
def test_every_mesh_gives_the_masks_of_one_device(long, case):
    _check_run(long, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in LONG if ":" not in case])
def test_on_every_mesh_masks_and_moments_lie_as_parameters_do(long, case):
    if case == "gpt_rigl_tensor":
        pytest.skip("8 devices do not divide its 4 heads: what is cut is asserted below")
    _check_places(long, case, moments=1)


@pytest.mark.slow
def test_a_mesh_that_does_not_divide_the_heads_cuts_the_rest(long):
    places = long[0]["gpt_rigl_tensor"]["after"]
    cut = {name for name, kinds in places.items() if set(kinds.values()) == {8}}
    assert {"block_0/mlp/up/kernel", "block_0/mlp/down/kernel", "embedding/embedding"} <= cut


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in LONG if ":" in case])
def test_mask_updates_gather_nothing(long, case):
    _check_operations(long[0][case], largest=16)


@pytest.mark.slow
def test_live_blocks_are_trained_alike_by_one_device_and_by_eight_that_share_the_batch():
    (result,) = finish([Run("train_runs", "--cases", "vit_rigl_one", "vit_rigl_data")], patience=300)
    _check_run(result, "vit_rigl_data")
    assert sum(name.endswith("kernel/data") for name in result[0]["vit_rigl_data"]["after"]) == 6


def test_the_meshes_are_what_they_say():
    assert training_axes() == ("data", "fsdp", "tensor")
    assert {name: int(np.prod(sizes)) for name, sizes in MESHES.items()} == {
        "one": 1, "data": 8, "fsdp": 8, "tensor": 8, "mixed": 8,
    }  # fmt: skip
