"""Two real processes on the loopback, two devices each: both see the global result, which is that of one device."""

import numpy as np
import pytest

from tests.distributed.launch import Run, finish, free_port

# The training command on two real processes is in the default run: tests/experiments/launch/test_slurm.py.
pytestmark = pytest.mark.slow

RECIPES = ("gmp_global_stack", "static")


def _process(number: int, port: int) -> Run:
    place = ("--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(number))
    return Run("run_recipes", "--mesh", "2", "2", "--recipes", *RECIPES, "training", *place)


@pytest.fixture(scope="module")
def runs():
    """Facts and arrays of both processes, and of one process with one device."""
    alone = Run("run_recipes", "--mesh", "1", "1", "--recipes", *RECIPES, "training")
    port = free_port()
    return finish([_process(0, port), _process(1, port), alone], patience=100)


@pytest.fixture(scope="module")
def pair(runs):
    return runs[:2]


@pytest.fixture(scope="module")
def one(runs):
    return runs[2]


def test_there_are_two_processes_with_two_devices_each(pair):
    for facts, _ in pair:
        assert (facts["processes"], facts["devices"]) == (2, 4)


def test_both_processes_see_the_same(pair):
    (facts, arrays), (other_facts, other_arrays) = pair
    assert facts == other_facts
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, other_arrays[name], err_msg=name)


@pytest.mark.parametrize("recipe", RECIPES)
def test_masks_and_parameters_are_bitwise_those_of_one_device(pair, one, recipe):
    names = [name for name in one[1] if name.startswith(f"{recipe}/")]
    assert any("/end/mask/" in name for name in names)
    for name in names:
        np.testing.assert_array_equal(pair[0][1][name], one[1][name], err_msg=name)


@pytest.mark.parametrize("recipe", RECIPES)
def test_everything_is_sharded_over_both_processes(pair, recipe):
    for when in ("init", "end"):
        facts = pair[0][0][recipe][when]
        assert facts["misplaced"] == []
        for kind in ("params", "moments", "masks"):
            assert facts["parts"][f"{kind} mlp/Dense_0/kernel"] == 4


def test_training_on_two_processes_agrees_to_reduction_order(pair, one):
    np.testing.assert_allclose(pair[0][0]["training"]["losses"], one[0]["training"]["losses"], rtol=1e-4)
    for name, mask in one[1].items():
        if name.startswith("training/mask/"):
            assert (mask == pair[0][1][name]).mean() > 0.99


def test_processes_that_hang_are_killed():
    alone = _process(0, free_port())  # its peer never comes
    with pytest.raises(TimeoutError, match="Nothing happened for 3 s"):
        finish([alone], patience=3)
    assert alone.process.returncode is not None


def test_a_process_that_fails_says_why_and_takes_the_others_with_it():
    waiting, failing = _process(0, free_port()), Run("run_recipes", "--mesh", "1")
    with pytest.raises(RuntimeError, match="expected 2 arguments"):
        finish([waiting, failing], patience=60)
    assert waiting.process.returncode is not None
