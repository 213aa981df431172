"""What a user does with a reparametrized optimizer: start it, wrap it, compile it, read it, end it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from sparsejax.errors import ParamsError, RandomKeyError, WrapperError
from sparsejax.params.paths import is_masked_node
from tests.helpers import KEY, batch, conds, full_masks, kernels, mlp_grads, mlp_params, train

ADAM = optax.adam(1e-2)


def _half(**options: Any) -> Any:
    return sparsejax.straight_through(ADAM, sparsity=0.5, **{"update_every": 4, **options})


def _gates(optimizer: Any = ADAM, key: Any = KEY) -> Any:
    return sparsejax.l0(optimizer, penalty_weight=1e-3, gates=sparsejax.patterns.Unstructured(), key=key)


def test_init_makes_the_given_parameters_latents():
    given = mlp_params(jnp.bfloat16)
    params, state = sparsejax.init(_half(), given)
    jax.tree.map(np.testing.assert_array_equal, state.latents, given)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.latents)} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_array_equal(params["body"]["bias"], given["body"]["bias"])
    for path, leaf in kernels(params).items():
        size = np.abs(kernels(given)[path].astype(np.float32))
        assert (leaf != 0).sum() == leaf.size // 2
        assert size[leaf != 0].min() >= size[leaf == 0].max()


def test_what_is_read_has_the_parameters_types():
    params, state = sparsejax.init(_gates(), mlp_params(jnp.bfloat16))
    final, masks = sparsejax.finalize(state)
    for values in (sparsejax.eval_params(state), final):
        same = jax.tree.map(lambda a, b: (a.dtype, a.shape) == (b.dtype, b.shape), values, params)
        assert all(jax.tree.leaves(same))
    sparsejax.masks.validate(masks, params)


def test_evaluation_draws_nothing_and_training_draws_anew():
    params, state = sparsejax.init(_gates(), mlp_params())
    zero = jax.tree.map(jnp.zeros_like, params)
    tx = _gates(optax.sgd(0.0))
    params, state = sparsejax.init(tx, mlp_params())
    before = sparsejax.eval_params(state)
    seen = []
    for _ in range(3):
        updates, state = tx.update(zero, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(np.asarray(params["body"]["kernel"]))
    assert (seen[0] != seen[1]).mean() > 0.3
    assert (seen[1] != seen[2]).mean() > 0.3
    close = np.abs(np.asarray(sparsejax.eval_params(state)["body"]["kernel"] - before["body"]["kernel"]))
    assert close.max() < 0.05  # the gates moved a little, by their penalty alone


def test_one_program_with_donated_buffers():
    tx = sparsejax.movement(ADAM, sparsity=0.5, end_step=6, update_every=2)

    def step(carry: Any, index: Any) -> Any:
        params, state = carry
        updates, state = tx.update(mlp_grads(params, index), state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step, donate_argnums=0)
    given = mlp_params()
    carry = sparsejax.init(tx, given)
    for index in range(8):
        carry = jitted(carry, index)
    assert jitted._cache_size() == 1
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert all(np.mean(leaf == 0) == 0.5 for leaf in kernels(carry[0]).values())


def test_one_cond_that_stays_one_under_vmap():
    """With an unbatched step; a population of keys and of learning rates, beside its members alone."""
    keys = jax.random.split(KEY, 2)

    def build(key: Any) -> Any:
        del key
        return _half(end_step=8)

    def start(key: Any) -> Any:
        return sparsejax.init(build(key), jax.tree.map(lambda p: p * jax.random.normal(key), mlp_params()))

    def update(carry: Any, key: Any, step: Any) -> Any:
        params, state = carry
        updates, state = build(key).update(mlp_grads(params, step), state, params, step=step)
        return optax.apply_updates(params, updates), state

    together = jax.jit(jax.vmap(start))(keys)
    start_one, step_one = jax.jit(start), jax.jit(update)
    step_all = jax.jit(jax.vmap(update, in_axes=(0, 0, None)))
    assert conds(step_all, together, keys, 0) == 1
    alone = [start_one(key) for key in keys]
    for step in range(6):
        together = step_all(together, keys, step)
        alone = [step_one(carry, key, step) for carry, key in zip(alone, keys, strict=True)]
    for member, (params, _) in enumerate(alone):
        ours = jax.tree.map(lambda leaf, m=member: leaf[m], together[0])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, params)


def test_an_array_of_sparsities():
    targets = np.array([0.25, 0.75])

    def start(scale: Any) -> Any:
        tx = sparsejax.straight_through(ADAM, sparsity=targets)
        return sparsejax.init(tx, jax.tree.map(lambda p: p * scale, mlp_params()))

    params, state = jax.jit(jax.vmap(start, axis_name="population"))(jnp.ones(2))
    for name in ("body", "head"):
        np.testing.assert_array_equal(np.mean(params[name]["kernel"] == 0, axis=(1, 2)), targets)
    assert state.count.shape == (2,)


def test_finalize_selects_exactly_between_two_selections():
    """Masks in force follow a threshold and drift; the final ones keep 96 and 48 again, with their values."""
    drifted = 0
    for make in (sparsejax.straight_through, sparsejax.movement):
        options = {} if make is sparsejax.straight_through else {"end_step": 0}
        tx = make(ADAM, sparsity=0.5, update_every=100, **options)
        for _, state in train(tx, mlp_params(), 3):
            params, masks = sparsejax.finalize(state)
            assert [int(masks[name]["kernel"].sum()) for name in ("body", "head")] == [96, 48]
            assert [int((params[name]["kernel"] != 0).sum()) for name in ("body", "head")] == [96, 48]
            drifted += int(sparsejax.get_masks(state)["body"]["kernel"].sum()) != 96
    assert drifted > 0
    tx = sparsejax.movement(ADAM, sparsity=0.5, begin_step=5, end_step=9)
    _, state = sparsejax.init(tx, mlp_params())
    assert bool(sparsejax.finalize(state)[1]["body"]["kernel"].all()), "dense before its first step"


def test_found_inside_wrappers():
    tx = optax.MultiSteps(_half(), 2).gradient_transformation()
    tx = optax.chain(optax.clip_by_global_norm(1.0), tx)
    for params, state in train(tx, mlp_params(), 4, jit=True):
        final, masks = sparsejax.finalize(state)
        on = full_masks(masks, params)
        assert all((leaf != 0).sum() == on[path].sum() for path, leaf in kernels(final).items())
        np.testing.assert_allclose(
            params["head"]["kernel"], sparsejax.eval_params(state)["head"]["kernel"], rtol=1e-6
        )
        in_force = full_masks(sparsejax.get_masks(state), params)
        assert all(((leaf != 0) == in_force[path]).all() for path, leaf in kernels(params).items())


def test_beside_sparsify_under_partition():
    """Each kind starts its own part: masked weights here, latents as they were given there."""
    sparse = sparsejax.static_random(ADAM, sparsity=0.75, key=KEY)
    tx = optax.partition(
        {"body": _half(update_every=1), "head": sparse},
        lambda params: jax.tree_util.tree_map_with_path(lambda path, _: path[0].key, params),
    )
    given = mlp_params()
    for params, state in train(tx, given, 3):
        masks = full_masks(sparsejax.get_masks(state), params)
        assert {path: int(mask.sum()) for path, mask in masks.items()} == {
            "body/kernel": 96,
            "head/kernel": 24,
        }
        assert all(not leaf[~masks[path]].any() for path, leaf in kernels(params).items())
        values = sparsejax.eval_params(state)
        assert is_masked_node(values["head"]["kernel"])
        np.testing.assert_allclose(values["body"]["kernel"], params["body"]["kernel"], rtol=1e-6)
    _, state = sparsejax.init(tx, given)
    first = state.inner_states["body"].inner_state
    np.testing.assert_array_equal(first.latents["body"]["kernel"], given["body"]["kernel"])


def test_nnx_optimizer():
    model = nnx.Linear(16, 12, rngs=nnx.Rngs(0))
    tx = _half()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)  # from the raw model: these are the latents
    params, _ = sparsejax.init(tx, nnx.state(model, nnx.Param))
    nnx.update(model, params)

    @nnx.jit
    def step(model: Any, optimizer: nnx.Optimizer, x: Any) -> None:
        grads = nnx.grad(lambda m: jnp.mean((m(x) - 1.0) ** 2))(model)
        optimizer.update(model, grads)

    first = np.asarray(model.kernel[...])
    for index in range(5):
        assert int((model.kernel[...] == 0).sum()) in range(80, 113)  # 96, and some drift between selections
        step(model, optimizer, batch(index)[0])
    assert (first != np.asarray(model.kernel[...])).any()
    kept = sparsejax.eval_params(optimizer.opt_state)
    np.testing.assert_allclose(jax.tree.leaves(kept)[1], model.kernel[...], rtol=1e-6)


def test_refused():
    after = optax.chain(_half(), optax.scale(0.5))
    with pytest.raises(WrapperError, match="inside"):
        sparsejax.init(after, mlp_params())
    with pytest.raises(ParamsError, match="reparametrize"):
        sparsejax.eval_params(ADAM.init(mlp_params()))
    with pytest.raises(ParamsError, match="reparametrize"):
        sparsejax.finalize(sparsejax.gmp(ADAM, sparsity=0.5, end_step=9).init(mlp_params()))
    params, state = sparsejax.init(_half(), mlp_params())
    with pytest.raises(ParamsError, match=r"tx\.update\(grads, state, params\)"):
        _half().update(params, state)
    with pytest.raises(RandomKeyError, match=r"jax\.random\.key"):
        _gates(key=3)


def test_old_and_new_keys_agree():
    new, old = (
        sparsejax.init(_gates(key=key), mlp_params())[0] for key in (jax.random.key(5), jax.random.PRNGKey(5))
    )
    jax.tree.map(np.testing.assert_array_equal, new, old)


def test_a_method_of_ones_own_needs_init_and_apply_alone():
    def shrunk(by: float) -> sparsejax.parametrizations.Parametrization:
        """Soft thresholding: small weights are zero, the others are smaller."""

        def apply(params: Any, aux: Any, key: Any) -> Any:
            del aux, key
            return jax.tree.map(lambda w: jnp.sign(w) * jax.nn.relu(jnp.abs(w) - by), params)

        return sparsejax.parametrizations.Parametrization(
            init=lambda params, key: sparsejax.parametrizations.Aux(), apply=apply
        )

    latents = {"kernel": jnp.array([[0.3, -2.0], [1.0, 0.1]]), "bias": jnp.array([0.2, 3.0])}
    tx = sparsejax.reparametrize(optax.sgd(0.5), shrunk(0.5))
    params, state = sparsejax.init(tx, latents)
    assert params["kernel"].tolist() == [[0.0, -1.5], [0.5, 0.0]]
    grads = {"kernel": jnp.array([[9.0, 1.0], [1.0, 9.0]]), "bias": jnp.zeros(2)}
    updates, state = jax.jit(tx.update)(grads, state, params)
    params = optax.apply_updates(params, updates)
    # The gradient reaches the weights that are not zero; the last of them has become so.
    np.testing.assert_allclose(params["kernel"], [[0.0, -2.0], [0.0, 0.0]], atol=1e-6)
    np.testing.assert_array_equal(sparsejax.eval_params(state)["kernel"], params["kernel"])
    final, masks = sparsejax.finalize(state)
    assert masks["kernel"].tolist() == [[False, True], [False, False]]
    assert masks["bias"].ndim == 0
    assert sparsejax.get_masks(state)["kernel"].tolist() == masks["kernel"].tolist()
    np.testing.assert_array_equal(final["kernel"], params["kernel"])


def test_a_method_without_masks_is_on_those_of_its_zeros():
    from sparsejax.transforms.parametrization import Aux, Parametrization

    method = Parametrization(
        init=lambda params, key: Aux((), ()),
        apply=lambda params, aux, key: jax.tree.map(lambda w: jnp.where(jnp.abs(w) > 1.5, w, 0.0), params),
    )
    params, state = sparsejax.init(
        sparsejax.reparametrize(optax.sgd(0.1), method), {"w": jnp.array([[1.0, -2.0]])}
    )
    assert params["w"].tolist() == [[0.0, -2.0]]
    assert sparsejax.get_masks(state)["w"].tolist() == [[False, True]]
