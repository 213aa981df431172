"""Learned masks from a configuration: exact counts, penalties by member, gates of the zoo's transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sparsejax
from experiments.config.fields import default_config
from experiments.config.validation import validate_config
from experiments.errors import ConfigError
from experiments.models.build import build_model
from experiments.record.outcome import named_by_path
from experiments.run.gates import gate_groups
from experiments.run.methods import build_method
from experiments.run.population import runs_of
from experiments.run.state import make_member, member_of
from sparsejax.interop.flax import functional
from tests.experiments import tiny

SPLIT = tiny.make_split()


@pytest.mark.parametrize("method", ["straight_through", "movement"])
def test_members_have_exact_counts_of_their_own_sparsity_and_are_their_own_runs(method):
    config = tiny.make_config(method=method, sparsity=0.0, population=1, sparsities=(0.5, 0.75), begin_step=0)
    (state,), metrics = tiny.train(config, SPLIT)
    built = build_method(config, make_member(0, 0.05), np.array([0.5, 0.75]))
    final = jax.jit(jax.vmap(built.finalize, axis_name="population"))
    params, masks = final(state.opt_state)
    assert [int(masks[x]["kernel"][0].sum()) for x in "ab"] == [20, 12]
    assert [int(masks[x]["kernel"][1].sum()) for x in "ab"] == [10, 6]
    assert np.all(np.asarray(params["a"]["kernel"])[~np.asarray(masks["a"]["kernel"])] == 0)
    assert metrics.kept[0].sum() == 2 * 64
    single = tiny.make_config(method=method, sparsity=0.75, begin_step=0)
    (alone,), said = tiny.train(single, SPLIT)
    own = build_method(single, make_member(0, 0.05), 0.75).finalize(alone.opt_state)[0]
    np.testing.assert_allclose(params["a"]["kernel"][1], own["a"]["kernel"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics.loss[:, 1], said.loss[:, 0], rtol=1e-4)


@pytest.mark.filterwarnings(
    "ignore:.*keeps none of its"
)  # the heavy one leaves nothing of a layer, and says so
def test_a_heavier_penalty_leaves_fewer_weights():
    config = tiny.make_config(
        method="soft_movement", sparsity=0.0, population=1, penalty_weights=(0.01, 1000.0), begin_step=0,
        score_learning_rate=1.0,
    )  # fmt: skip
    runs = runs_of(config)
    assert [run.penalty_weight for run in runs] == [0.01, 1000.0]
    assert runs[1].name == "seed_0-sparsity_0-rate_0.05-penalty_1000"
    (state,), _ = tiny.train(config, SPLIT)
    method = build_method(config, make_member(0, 0.05))
    light, heavy = (method.finalize(member_of(state, i).opt_state)[1] for i in range(2))
    kept = [sum(int(leaf.sum()) for leaf in jax.tree.leaves(masks)) for masks in (light, heavy)]
    assert kept[0] > kept[1]


def test_gates_are_noisy_in_training_and_not_in_what_is_kept():
    config = tiny.make_config(method="l0", sparsity=0.0, penalty_weight=1e-3, gates="weights")
    built = build_method(config, make_member(3, 0.05, penalty_weight=1e-3))
    params, opt_state = built.init(tiny.draw(jax.random.key(0)))
    ended, masks = built.finalize(opt_state)
    assert not np.array_equal(params["a"]["kernel"], ended["a"]["kernel"])
    np.testing.assert_array_equal(ended["a"]["kernel"], built.finalize(opt_state)[0]["a"]["kernel"])
    assert bool(masks["a"]["kernel"].all())  # gates begin open


@pytest.mark.parametrize("sizes", [{}, {"kv_heads": 2, "mlp": "swiglu", "tied": False}])
def test_cofi_gates_every_kernel_of_the_blocks(sizes):
    config = default_config("gpt")
    config.method, config.sparsity = "cofi", 0.5
    config.model.update({"width": 8, "mlp_dim": 12, **sizes})
    validate_config(config)
    model = nnx.eval_shape(lambda: build_model(config.model, input_shape=(4,), classes=5, rngs=nnx.Rngs(0)))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), functional(model)[1])
    tx = build_method(config, make_member(0, 0.1, 0.5)).tx
    masks = jax.eval_shape(lambda params: sparsejax.get_masks(sparsejax.init(tx, params)[1]), params)
    gated = {path for path, mask in named_by_path(masks).items() if mask.ndim}
    kernels = {path for path in named_by_path(params) if path.endswith("kernel")}
    assert gated == kernels
    assert len(gate_groups(config)["neurons"].follows) == 1 + ("mlp" in sizes)


def _kept_with(name, shut):
    """Weights kept in each layer when the first so many gates of each group are shut."""
    config = default_config(name)
    config.method, config.gates, config.penalty_weight = "l0", "neurons", 1e-3
    validate_config(config)
    model = nnx.eval_shape(
        lambda: build_model(config.model, input_shape=(8, 8), classes=10, rngs=nnx.Rngs(0))
    )
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), functional(model)[1])
    tx = build_method(config, make_member(0, 0.1, penalty_weight=1e-3)).tx
    _, state = jax.jit(lambda params: sparsejax.init(tx, params))(params)  # op by op it takes much longer
    sizes = [gates.size for gates in state.aux.trained.log_alpha]
    values = [jnp.where(jnp.arange(n) < off, -9.0, 9.0) for n, off in zip(sizes, shut, strict=True)]
    trained = state.aux.trained._replace(log_alpha=tuple(values))
    _, masks = jax.jit(sparsejax.finalize)(state._replace(aux=state.aux._replace(trained=trained)))
    whole = jax.tree.map(lambda mask, leaf: np.broadcast_to(mask, leaf.shape), masks, params)
    return sizes, {path: mask for path, mask in named_by_path(whole).items() if path.endswith("kernel")}


def test_a_shut_neuron_leaves_with_its_input_weights():
    """LeNet-300-100 with the gates of 250 and 80 neurons shut and of all pixels open: a 50-20 network is left."""
    sizes, masks = _kept_with("mlp", (0, 250, 80))
    assert sizes == [64, 300, 100]
    assert [int(mask.sum()) for mask in masks.values()] == [64 * 50, 50 * 20, 20 * 10]


def test_a_shut_channel_leaves_wherever_it_is_flattened_to():
    sizes, masks = _kept_with("lenet", (10, 30, 100, 80))
    assert sizes == [16, 32, 120, 84]
    kept = {path: int(mask.sum()) for path, mask in masks.items()}
    assert kept == {
        "conv_0/kernel": 9 * 6,
        "conv_1/kernel": 9 * 6 * 2,
        "dense_0/kernel": 4 * 2 * 20,
        "dense_1/kernel": 20 * 4,
        "dense_2/kernel": 4 * 10,
    }
    # Channels are last in what is flattened: channels 30 and 31 at each of the four places.
    assert np.flatnonzero(masks["dense_0/kernel"].any(1)).tolist() == [30, 31, 62, 63, 94, 95, 126, 127]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "movement", "penalty_weights": (1.0,), "population": 1}, "which has no penalty_weight"),
        ({"method": "soft_movement"}, "it sets the sparsity"),
        (
            {"method": "soft_movement", "penalty_weight": 1.0, "sparsities": (0.5,), "population": 1},
            "which has no sparsity",
        ),
        ({"method": "l0", "penalty_weight": 1.0, "sparsity": 0.5}, "both given"),
        ({"method": "l0", "penalty_weights": (0.0, 1.0), "population": 1}, "numbers above 0"),
        ({"method": "l0", "gates": "inputs"}, "did you mean 'input'"),
        (
            {"method": "l0", "gates": "neurons", "model": default_config("gpt").model},
            "of mlp, lenet",
        ),
        ({"method": "l0", "gates": "neurons", "dense_layers": ("dense_0/*",)}, "each in two layers"),
        ({"method": "movement", "ema_decay": 0.9}, "config.ema_decay is 0.9"),
        ({"method": "cofi"}, "choose one of gpt, encoder"),
        ({"distill_layers": 1.0}, "the workdir whose hidden states"),
    ],
)
def test_fields_that_do_not_go_together(changes, words):
    config = default_config()
    for name, value in changes.items():
        config[name] = value
    with pytest.raises(ConfigError, match=words):
        validate_config(config)
