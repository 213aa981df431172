"""States that can be saved: by pickle, msgpack, orbax with and without a template, numpy; others are told apart."""

import functools
import os
import pickle
import subprocess
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

import sparsejax
from sparsejax.errors import ParamsError
from sparsejax.transforms import restore_state, state_arrays
from sparsejax.transforms.fingerprint import fingerprint
from tests.helpers import KEY, mlp_grads, mlp_params

MAKES = {
    "gmp": partial(sparsejax.gmp, sparsity=0.5, end_step=4, update_every=2),
    "rigl": partial(sparsejax.rigl, sparsity=0.5, total_steps=9, update_every=2, key=KEY),
    "straight_through": partial(sparsejax.straight_through, sparsity=0.5, update_every=2),
    "movement": partial(sparsejax.movement, sparsity=0.5, end_step=4, update_every=2),
    "l0": partial(sparsejax.l0, sparsity=0.5, key=KEY),
}
LEARNED = ("straight_through", "movement", "l0")


def make(name: str) -> Any:
    return MAKES[name](optax.adam(1e-2))


@functools.cache
def in_training(name: str) -> tuple[Any, Any, Any]:
    """Parameters and state after some steps, and what both come to after two more."""
    tx = make(name)
    params, state = some_steps(tx, *sparsejax.init(tx, mlp_params()))
    return params, state, some_steps(tx, params, state, 2)


def some_steps(tx: Any, params: Any, state: Any, steps: int = 3) -> tuple[Any, Any]:
    for step in range(steps):
        updates, state = tx.update(mlp_grads(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def _pickle(state: Any, like: Any, folder: Any) -> Any:
    return pickle.loads(pickle.dumps(jax.device_get(state)))


def _msgpack(state: Any, like: Any, folder: Any) -> Any:
    return serialization.from_bytes(like, serialization.to_bytes(state))


def _numpy(state: Any, like: Any, folder: Any) -> Any:
    np.savez(folder / "state.npz", **state_arrays(state))
    return restore_state(like, dict(np.load(folder / "state.npz")))


def _orbax(state: Any, like: Any, folder: Any, template: bool = True) -> Any:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as saver:
        saver.save(folder / "state", state)
        saver.wait_until_finished()
        return saver.restore(folder / "state", *([like] if template else []))


def _orbax_bare(state: Any, like: Any, folder: Any) -> Any:
    restored = _orbax(state, like, folder, template=False)
    with pytest.raises(ParamsError, match=r"came back as dicts.*restore_state"):
        sparsejax.get_masks(restored)
    return restore_state(like, restored)


WAYS = {
    "pickle": _pickle,
    "msgpack": _msgpack,
    "numpy": _numpy,
    "orbax": _orbax,
    "orbax without": _orbax_bare,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MAKES)
def test_training_goes_on_from_a_saved_state_as_if_nothing_had_happened(name, way, tmp_path):
    params, state, went_on = in_training(name)
    again = make(name)  # as another process would make it
    loaded = WAYS[way](state, again.init(params), tmp_path)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    for ours, theirs in zip(*map(jax.tree.leaves, (state, loaded)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    goes_on = some_steps(again, params, loaded, 2)
    for ours, theirs in zip(*map(jax.tree.leaves, (went_on, goes_on)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    ends = sparsejax.finalize if name in LEARNED else sparsejax.get_masks
    for ours, theirs in zip(*(jax.tree.leaves(ends(s)) for s in (state, loaded)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


PROCESS = """
import pickle, sys, jax, numpy as np, optax, sparsejax
state = pickle.load(open(sys.argv[1], "rb"))
try:
    sparsejax.finalize(state)
    raise SystemExit("finalized without the method")
except sparsejax.errors.ParamsError as error:
    assert "was saved with the method straight_through" in str(error), error
tx = sparsejax.straight_through(optax.adam(1e-2), sparsity=0.5, update_every=2)
params, masks = sparsejax.finalize(state)
np.savez(sys.argv[2], *jax.tree.leaves(params))
"""


def test_a_state_pickled_by_one_process_ends_in_another(tmp_path):
    _, state, _ = in_training("straight_through")
    (tmp_path / "state.pkl").write_bytes(pickle.dumps(jax.device_get(state)))
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "state.pkl"), str(tmp_path / "params.npz")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 0, done.stderr
    final = jax.tree.leaves(sparsejax.finalize(state)[0])
    for ours, theirs in zip(final, np.load(tmp_path / "params.npz").values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("way", ["msgpack", "numpy"])
@pytest.mark.parametrize(
    ("saved", "loads"), [("gmp", "movement"), ("movement", "gmp"), ("movement", "straight_through")]
)
def test_a_state_of_another_form_or_recipe_is_told_apart(saved, loads, way, tmp_path):
    params, state = sparsejax.init(make(saved), mlp_params())
    with pytest.raises((ParamsError, ValueError, KeyError)) as caught:
        WAYS[way](state, make(loads).init(params), tmp_path)
    if way == "numpy":
        assert isinstance(caught.value, ParamsError)
        assert any(
            word in str(caught.value) for word in ("masks/bits/body/kernel", "aux/trained/0", "uint8", "bool")
        )


def test_msgpack_tells_other_arguments_and_layouts():
    params, state = sparsejax.init(make("straight_through"), mlp_params())
    other = sparsejax.straight_through(optax.adam(1e-2), sparsity=0.6, update_every=2)
    with pytest.raises(ParamsError, match=r"the method is straight_through \(\w+\), here straight_through"):
        _msgpack(state, other.init(params), None)


def test_an_update_refuses_a_state_of_another_optimizer():
    params = mlp_params()
    grads = mlp_grads(params, 0)
    states = {name: make(name).init(params) for name in ("gmp", "straight_through", "movement")}
    loose = states["gmp"]._replace(masks=sparsejax.get_masks(states["gmp"]))
    with pytest.raises(ParamsError, match=r"not packed: put sparsejax\.masks\.pack_tree"):
        make("gmp").update(grads, loose, params)
    with pytest.raises(ParamsError, match=r"the state is (a )?ReparametrizeState"):
        make("gmp").update(grads, states["movement"], params)
    with pytest.raises(ParamsError, match=r"of the method movement .* the optimizer is straight_through"):
        make("straight_through").update(grads, states["movement"], params)
    other = sparsejax.movement(optax.adam(1e-2), sparsity=0.7, end_step=4, update_every=2)
    with pytest.raises(ParamsError, match="with other arguments"):
        other.update(grads, states["movement"], params)


def test_restoring_names_other_shapes():
    tx = make("gmp")
    saved = state_arrays(tx.init(mlp_params()))
    saved["inner_state/0/mu/body/bias"] = np.zeros(5)
    with pytest.raises(
        ParamsError, match=r"'inner_state/0/mu/body/bias' is float\d+\[5\], here float32\[12\]"
    ):
        restore_state(tx.init(mlp_params()), saved)


def test_a_fingerprint_is_of_code_and_values():
    def scaled(by: Any) -> Any:
        return lambda x: by * x

    def shifted(by: Any) -> Any:
        return lambda x: by + x

    marks = [
        fingerprint(f)
        for f in (scaled(2.0), scaled(3.0), shifted(2.0), scaled(np.ones(2)), scaled(np.zeros(2)))
    ]
    assert len(set(marks)) == 5
    assert fingerprint(scaled(np.ones(2))) == marks[3]
    assert fingerprint(partial(scaled(2.0), x=1)) != fingerprint(partial(scaled(2.0), x=2))
    assert jax.jit(lambda x: jnp.float32(fingerprint(scaled(x)) is None))(1.0) == 1.0


def test_sets_have_one_fingerprint_in_whatever_order_they_were_made():
    def over(numbers):
        return lambda x: x in numbers

    one, other = {0, 8}, {8, 0}
    assert list(one) != list(other)  # both fall into one place of the table: the first stays there
    assert fingerprint(over(one)) == fingerprint(over(other)) != fingerprint(over({0, 9}))


def test_four_names_are_told_whole():
    state = make("gmp").init(mlp_params())
    saved = sparsejax.transforms.state_arrays(state)
    for more in (4, 5):
        extra = {f"odd{i}": np.zeros(()) for i in range(more)}
        with pytest.raises(sparsejax.errors.ParamsError) as caught:
            sparsejax.transforms.restore_state(state, {**saved, **extra})
        assert ("…" in str(caught.value)) == (more > 4)
