"""Checkpoints come back to the bit; damaged ones are found out leaf by leaf, and the next older one serves."""

import gc
import pathlib
import re
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.errors import CheckpointError
from experiments.record.checkpoint import (
    _encode,
    checksums,
    open_checkpoints,
    restore_newest,
    save_checkpoint,
)
from experiments.run.population import groups_of
from tests.experiments import tiny

#: orbax leaves the other reads of a damaged checkpoint behind, which Python then complains of.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected():
    """Python complains within the test that left them."""
    yield
    gc.collect()


def _tree(seed):
    """Every kind of leaf that a run keeps; the large one compresses badly, so that it has a file of its own."""
    key = jax.random.key(seed)
    return {
        "params": {"kernel": jax.random.normal(key, (64, 70)), "half": jnp.arange(6.0).astype(jnp.bfloat16)},
        "mask": jax.random.bernoulli(key, 0.5, (64, 70)),
        "packed": jnp.arange(9, dtype=jnp.uint8),
        "flag": jnp.bool_(True),
        "key": key,
        "step": jnp.int32(seed),
        "empty": (),
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A directory with the checkpoints 3 and 7; to be copied."""
    directory = tmp_path_factory.mktemp("whole") / "checkpoints"
    with open_checkpoints(directory, keep=2) as manager:
        for step in (1, 3, 7):
            save_checkpoint(manager, step, _tree(step))
    return directory


@pytest.fixture
def directory(written, tmp_path):
    return pathlib.Path(shutil.copytree(written, tmp_path / "checkpoints"))


def _restore(directory, template=None):
    with open_checkpoints(directory, keep=2) as manager:
        return restore_newest(manager, template or _tree(0))


def _large_file(directory, step):
    """The file that holds most of a checkpoint."""
    return max(
        (directory / str(step) / "state").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0
    )


def test_everything_comes_back_to_the_bit(directory):
    found = _restore(directory)
    assert found.step == 7
    assert jax.tree.structure(found.tree) == jax.tree.structure(_tree(7))
    tiny.assert_same(jax.tree.map(tiny.on_host, found.tree), jax.tree.map(tiny.on_host, _tree(7)))
    assert found.tree["key"].dtype == _tree(7)["key"].dtype
    assert found.tree["params"]["half"].dtype == jnp.bfloat16


def test_only_the_newest_are_kept(directory):
    assert sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit()) == [3, 7]


def test_masks_are_kept_as_bits():
    stored = _encode(_tree(0))
    (mask,) = (leaf for name, leaf in stored.items() if name.endswith(".mask"))
    assert (mask.dtype, mask.shape) == (jnp.uint8, (64, 9))  # 70 entries in 9 bytes
    (packed,) = (leaf for name, leaf in stored.items() if name.endswith(".packed"))
    assert packed.shape == (9,)


def test_masks_of_a_run_are_kept_as_bits():
    config = tiny.make_config(method="gmp")
    (group,) = groups_of(config, stepwise=False)
    _, state = tiny.begin(config, group)
    masks = {name: leaf for name, leaf in _encode(state).items() if "mask" in name}
    assert sum(leaf.nbytes for leaf in masks.values()) <= (5 * 8 + 8 * 3) / 8 + 2 * 8
    assert {leaf.dtype for leaf in masks.values()} == {jnp.dtype(jnp.uint8)}


def test_nothing_there(tmp_path):
    assert _restore(tmp_path / "new") is None


def _truncate(directory, step):
    path = _large_file(directory, step)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(directory, step):
    """One bit somewhere in the numbers: far into the file, past its headers."""
    path = _large_file(directory, step)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def _empty(directory, step):
    for path in (directory / str(step)).iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _no_meta(directory, step):
    shutil.rmtree(directory / str(step) / "meta")


def _no_state(directory, step):
    shutil.rmtree(directory / str(step) / "state")


DAMAGES = [_truncate, _flip, _empty, _no_meta, _no_state]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_found_out_and_the_older_one_serves(directory, damage):
    damage(directory, 7)
    with pytest.warns(UserWarning, match=r"step 7 in .* cannot be used .*next older"):
        found = _restore(directory)
    assert found.step == 3
    tiny.assert_same(jax.tree.map(tiny.on_host, found.tree), jax.tree.map(tiny.on_host, _tree(3)))
    with open_checkpoints(directory, keep=2) as manager:
        save_checkpoint(manager, 5, _tree(5))  # the run goes on, below the step of the damaged one
        assert restore_newest(manager, _tree(0)).step == 5


def test_all_damaged(directory):
    _truncate(directory, 3)
    _flip(directory, 7)
    with (
        pytest.warns(UserWarning, match="cannot be used"),
        pytest.raises(CheckpointError, match=r"step 7: .*step 3: .*begin anew"),
    ):
        _restore(directory)
    assert (directory / "3").exists()  # nothing is removed where nothing could be used


def test_every_flipped_bit_is_found_out(written, tmp_path):
    """Sixteen places spread over the largest file: the older step serves, or the very same numbers come back."""
    length, older = len(_large_file(written, 7).read_bytes()), 0
    for place in np.linspace(0, length - 1, 16).astype(int):
        directory = pathlib.Path(shutil.copytree(written, tmp_path / str(place)))
        path = _large_file(directory, 7)
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            found = _restore(directory)
        told = [str(w.message) for w in caught if "cannot be used" in str(w.message)]
        assert (found.step, len(told)) in ((3, 1), (7, 0))
        older += found.step == 3
        tiny.assert_same(*(jax.tree.map(tiny.on_host, tree) for tree in (found.tree, _tree(found.step))))
    assert older >= 12


def test_a_half_written_one_is_not_taken_for_one(directory):
    shutil.copytree(directory / "7", directory / "9.orbax-checkpoint-tmp")
    assert _restore(directory).step == 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"packed": jnp.zeros(8, jnp.uint8)},
            r"packed is \['uint8', \[9\]\] there and \['uint8', \[8\]\] here",
        ),
        ({"step": jnp.float32(0)}, r"step is \['int32', \[\]\] there and \['float32', \[\]\] here"),
        ({"more": jnp.zeros(1)}, r"more is absent there"),
    ],
)
def test_another_model_is_named(directory, change, words):
    with pytest.warns(UserWarning, match="cannot be used"), pytest.raises(CheckpointError, match=words):
        _restore(directory, _tree(0) | change)
    assert (directory / "7").exists()


def test_a_step_that_is_there_already_is_not_passed_over_in_silence(directory):
    with (
        open_checkpoints(directory, keep=2) as manager,
        pytest.raises(CheckpointError, match="holds step 7 already, so step 6 was not saved"),
    ):
        save_checkpoint(manager, 6, _tree(6))


def test_the_checksum_tells_places_and_types_apart():
    x = jnp.arange(12, dtype=jnp.int32)
    leaves = {
        "x": x, "shape": x.reshape(3, 4), "swapped": x.at[jnp.array([2, 3])].set(jnp.array([3, 2])),
        "bit": x.at[5].set(5 ^ 64), "zeros": jnp.zeros(12), "minus": -jnp.zeros(12), "one": x[:11],
    }  # fmt: skip
    sums = checksums(leaves)
    assert sums["x"] == sums["shape"]  # row-major order is what counts
    assert len({sums[name] for name in leaves}) == len(leaves) - 1
    assert all(re.fullmatch(r"\d{1,10}", str(value)) and value < 2**32 for value in sums.values())
    # By hand, for the mixing function of 32-bit words.
    assert sums["one"] == sum(_mix(i + _mix(i)) for i in range(11)) % 2**32


def _mix(x):
    x %= 2**32
    x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
    x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
    return x ^ (x >> 16)
