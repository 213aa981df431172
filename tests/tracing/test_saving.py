"""A shrunk model written to a file is read in another process, and nothing else is read for it."""

import pickle
import subprocess
import sys
from collections import namedtuple
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import FileError, ParamsError, TracingError
from sparsejax.tracing import group_masks, load_shrunk, prunable_groups, save_shrunk, shrink
from sparsejax.tracing.fingerprint import fingerprint
from tests.tracing import shrunk_model
from tests.tracing.equality import assert_close, masked, random_keep
from tests.tracing.functions import CASES, normal, weights

HALF = {"a:1": np.arange(8) % 2 == 0}


def shrunk(dtype=jnp.float32, fn=shrunk_model.apply):
    params = jax.tree.map(lambda p: p.astype(dtype), weights(a=(5, 8), b=(8,), c=(8, 3)))
    x = normal(4, 5)
    groups = prunable_groups(fn, params, x)
    return *shrink(fn, params, x, groups, HALF), x


def equal(a, b):
    return a.dtype == b.dtype and np.array_equal(np.asarray(a), np.asarray(b))


def test_a_new_process_computes_the_same(tmp_path):
    small_fn, small_params, x = shrunk()
    small_params = jax.tree.map(lambda p: p * 1.5, small_params)  # as after fine-tuning
    save_shrunk(tmp_path / "small.npz", jax.jit(small_fn), small_params)
    np.save(tmp_path / "x.npy", x)
    paths = [str(tmp_path / name) for name in ("small.npz", "x.npy", "y.npy")]
    subprocess.run([sys.executable, "-m", "tests.tracing.shrunk_model", *paths], check=True, timeout=300)
    assert_close(jnp.asarray(np.load(tmp_path / "y.npy")), small_fn(small_params, x), 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_function_and_group(tmp_path, name):
    fn, params, inputs = CASES[name]()
    groups = prunable_groups(fn, params, inputs)
    small_fn, small = shrink(fn, params, inputs, groups, random_keep(groups))
    save_shrunk(tmp_path / "small.npz", small_fn, small)
    loaded_fn, loaded = load_shrunk(tmp_path / "small.npz", fn)
    assert jax.tree.all(jax.tree.map(equal, loaded, small))
    assert (
        jax.make_jaxpr(loaded_fn)(loaded, *inputs).out_avals
        == jax.make_jaxpr(small_fn)(small, *inputs).out_avals
    )
    for group, kept in loaded_fn.groups.items():
        for mine, its in zip(groups[group].members, kept.members, strict=True):
            assert (mine.path, mine.axis, mine.role) == (its.path, its.axis, its.role)
            np.testing.assert_array_equal(mine.index, its.index)


def test_types_that_numpy_does_not_know(tmp_path):
    small_fn, small, x = shrunk(jnp.bfloat16)
    save_shrunk(tmp_path / "small.npz", small_fn, small)
    loaded_fn, loaded = load_shrunk(tmp_path / "small.npz", shrunk_model.apply)
    assert loaded["a"].dtype == jnp.bfloat16
    assert jax.tree.all(jax.tree.map(equal, loaded, small))
    assert equal(loaded_fn(loaded, x), small_fn(small, x))


Weights = namedtuple("Weights", "a b c")


def test_containers_of_the_user_are_given_again(tmp_path):
    params, x = Weights(**weights(a=(5, 8), b=(8,), c=(8, 3))), normal(4, 5)
    fn = lambda p, x: shrunk_model.apply(p._asdict(), x)  # noqa: E731
    groups = prunable_groups(fn, params, x)
    small_fn, small = shrink(fn, params, x, groups, HALF)
    path = tmp_path / "small.npz"
    save_shrunk(path, small_fn, small)
    with pytest.raises(ParamsError, match=r"params were saved from a Weights, .* Give load_shrunk params="):
        load_shrunk(path, fn)
    _, loaded = load_shrunk(path, fn, jax.eval_shape(lambda: params))
    assert type(loaded) is Weights
    assert equal(loaded.a, small.a)
    with pytest.raises(
        ParamsError, match=r"has \['a', \[5, 8\], 'float32'\], not \['a', \[5, 4\], 'float32'\]"
    ):
        load_shrunk(path, fn, small)
    with pytest.raises(ParamsError, match=r"inputs= are not those .*\[4, 5\].*not .*\[2, 5\]"):
        load_shrunk(path, fn, params, x[:2])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97])
def test_a_file_cut_off_is_refused(tmp_path, share):
    small_fn, small, _ = shrunk()
    path = tmp_path / "small.npz"
    save_shrunk(path, small_fn, small)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileError, match=r"small\.npz cannot be read .*cut off, damaged"):
        load_shrunk(path, shrunk_model.apply)


def test_a_flipped_byte_of_the_weights_is_refused(tmp_path):
    small_fn, small, _ = shrunk()
    path = tmp_path / "small.npz"
    save_shrunk(path, small_fn, small)
    content = bytearray(path.read_bytes())
    content[content.index(np.asarray(small["a"]).tobytes()[:16]) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match="cannot be read"):
        load_shrunk(path, shrunk_model.apply)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.npz"
    with pytest.raises(FileError, match="There is no file"):
        load_shrunk(path, shrunk_model.apply)
    np.savez(path, a=np.ones(3))
    with pytest.raises(FileError, match="was not written by save_shrunk"):
        load_shrunk(path, shrunk_model.apply)
    path.write_bytes(b"hello")
    with pytest.raises(FileError, match="cannot be read"):
        load_shrunk(path, shrunk_model.apply)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (lambda p, x: jnp.tanh(x @ p["a"] + p["b"]) @ p["c"], "another one than that of"),
        (lambda p, x: jax.nn.relu(x @ p["a"] + p["b"]) @ (2 * p["c"]), "another one than that of"),
        (lambda p, x: x @ p["weight"], r"does not take the parameters .*KeyError: 'weight'"),
        (lambda p, x: jnp.sort(x @ p["a"]) @ p["c"], r"does not take .*no prunable group 'a:1'"),
    ],
)
def test_another_function_is_refused(tmp_path, other, match):
    small_fn, small, _ = shrunk()
    save_shrunk(tmp_path / "small.npz", small_fn, small)
    with pytest.raises(TracingError, match=match):
        load_shrunk(tmp_path / "small.npz", other)


def test_what_is_no_shrunk_function_is_not_saved(tmp_path):
    small_fn, small, _ = shrunk()
    with pytest.raises(TracingError, match="save_shrunk got a function; give it the function that shrink"):
        save_shrunk(tmp_path / "small.npz", shrunk_model.apply, small)
    with pytest.raises(ParamsError, match=r"takes parameters of shapes .*\(5, 4\).*got .*\(5, 8\)"):
        save_shrunk(tmp_path / "small.npz", small_fn, small_fn.params)
    with pytest.raises(FileError, match="could not be written"):
        save_shrunk(tmp_path / "no" / "such" / "place.npz", small_fn, small)
    assert not list(tmp_path.iterdir())


def test_small_functions_are_pickled_if_their_function_is():
    small_fn, small, x = shrunk()
    again = pickle.loads(pickle.dumps(small_fn))
    assert equal(again(small, x), small_fn(small, x))
    partly = partial(shrunk_model.apply)
    again = pickle.loads(pickle.dumps(shrunk(fn=partly)[0]))
    assert equal(again(small, x), small_fn(small, x))
    scale = 2.0
    closure, *_ = shrunk(fn=lambda p, x: shrunk_model.apply(p, scale * x))
    with pytest.raises(TracingError, match=r"cannot be pickled.*at the top of a module.*save_shrunk\(path"):
        pickle.dumps(closure)


def test_fingerprints_tell_what_is_computed_and_nothing_else():
    params, x = weights(a=(5, 8), b=(8,), c=(8, 3)), normal(4, 5)
    trace = lambda fn: fingerprint(jax.make_jaxpr(fn)(params, x))  # noqa: E731

    def renamed(p, y):
        hidden = jax.nn.relu(y @ p["a"] + p["b"])
        return hidden @ p["c"]

    assert trace(renamed) == trace(shrunk_model.apply)
    others = [
        lambda p, x: jax.nn.relu(x @ p["a"] - p["b"]) @ p["c"],
        lambda p, x: jax.nn.relu(x @ p["a"] + 1.0) @ p["c"],
        lambda p, x: jax.nn.relu(x @ p["a"] + 2.0) @ p["c"],
        lambda p, x: jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x),
        lambda p, x: jax.lax.cond(x[0, 0] > 0, jnp.cos, jnp.sin, x),
        lambda p, x: x.reshape(2, 2, 5),
        lambda p, x: x.reshape(2, 10),
    ]
    assert len({trace(fn) for fn in (shrunk_model.apply, *others)}) == 8


def test_a_loaded_function_equals_the_masked_one(tmp_path):
    fn, params, inputs = CASES["group_norm"]()
    groups = prunable_groups(fn, params, inputs)
    keep = {"a:3.0": np.array([True, False])}
    save_shrunk(tmp_path / "small.npz", *shrink(fn, params, inputs, groups, keep))
    loaded_fn, loaded = load_shrunk(tmp_path / "small.npz", fn)
    assert_close(loaded_fn(loaded, *inputs), fn(masked(params, group_masks(params, groups, keep)), *inputs))
