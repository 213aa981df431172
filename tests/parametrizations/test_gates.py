"""Gates land on the weights they name; expected sizes are what counting over all gate states gives."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from experiments.benchmark import models
from sparsejax.errors import PathError, PatternError, RandomKeyError, SparsityError
from sparsejax.parametrizations.gates import resolve
from tests.helpers import KEY

PARAMS = {
    f"block_{i}": {
        "up": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)},
        "down": {"kernel": jnp.ones((4, 3))},
    }
    for i in range(2)
}
GROUPS = {
    "ffn": sparsejax.parametrizations.GateGroup(
        (("block_*/down/kernel", 0),), follows=(("block_*/up/kernel", 1), ("block_*/up/bias", 0))
    ),
    "pairs": sparsejax.parametrizations.GateGroup((("block_*/down/kernel", 0),), units=2),
    "layer": sparsejax.parametrizations.GateGroup(
        (("block_*/down/kernel", None),), follows=(("block_*/up/*", None),)
    ),
    "width": sparsejax.parametrizations.GateGroup(
        (("block_*/up/kernel", 0),), follows=(("block_*/down/kernel", 1),), shared=True
    ),
}


def _aux(
    method: sparsejax.parametrizations.Parametrization, params: Any, fill: Any
) -> sparsejax.parametrizations.Aux:
    aux = method.init(params, KEY)
    log_alpha = tuple(fill(i, a.shape) for i, a in enumerate(aux.trained.log_alpha))
    return aux._replace(trained=aux.trained._replace(log_alpha=log_alpha))


def test_names_and_sizes():
    found = {gates.name: gates.shape for gates in resolve(GROUPS, PARAMS, None, None)}
    per_block = {"ffn": (4,), "pairs": (2,), "layer": (1,)}
    want = {f"{name}/{i}": shape for name, shape in per_block.items() for i in range(2)}
    assert found == want | {"width": (3,)}
    (layer,) = [gates for gates in resolve(GROUPS, PARAMS, None, None) if gates.name == "layer/1"]
    assert [factor.scaled for factor in layer.factors] == [True, False, False]


def test_products_by_hand():
    """Shut gates (log α = −9, evaluated to 0) and open ones (9, to 1) multiply where they should."""
    groups = {name: GROUPS[name] for name in ("ffn", "pairs", "width")}
    method = sparsejax.parametrizations.hard_concrete(groups, penalty_weight=1.0)
    names = [gates.name for gates in resolve(groups, PARAMS, None, None)]
    open_ = {name: np.ones(n) for name, n in zip(names, (4, 4, 2, 2, 3), strict=True)}
    open_["ffn/0"][1] = 0
    open_["pairs/1"][1] = 0
    open_["width"][2] = 0
    aux = _aux(method, PARAMS, lambda i, shape: jnp.asarray(np.where(open_[names[i]] > 0, 9.0, -9.0)))
    effective, masks = method.apply(PARAMS, aux, None), method.masks(PARAMS, aux)
    np.testing.assert_array_equal(
        effective["block_0"]["down"]["kernel"][:, 0], [1, 0, 1, 1], "the neuron's consumer is scaled"
    )
    np.testing.assert_array_equal(effective["block_1"]["down"]["kernel"][:, 0], [1, 1, 0, 0])
    np.testing.assert_array_equal(effective["block_0"]["up"]["kernel"], [[1] * 4, [1] * 4, [0] * 4])
    full = jax.tree.map(lambda m, p: np.broadcast_to(m, p.shape), masks, PARAMS)
    np.testing.assert_array_equal(full["block_0"]["up"]["bias"], [1, 0, 1, 1])
    np.testing.assert_array_equal(full["block_0"]["up"]["kernel"], [[1, 0, 1, 1]] * 2 + [[0] * 4])
    np.testing.assert_array_equal(
        full["block_0"]["down"]["kernel"], [[1, 1, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0]]
    )


def test_expected_size_is_counting():
    """Over all 2⁷ states of independent gates on one parameter, each with its probability."""
    params = {"w": jnp.ones((4, 3)), "free": jnp.ones((2, 2))}
    groups = {
        "rows": sparsejax.parametrizations.GateGroup((("w", 0),)),
        "pairs": sparsejax.parametrizations.GateGroup((("w", 0),), units=2),
        "all": sparsejax.parametrizations.GateGroup((("w", None),)),
    }
    chances = np.random.default_rng(0).uniform(0.1, 0.9, 7)
    shift = np.log(0.1 / 1.1) * 2 / 3
    log_alpha = jnp.asarray(np.log(chances / (1 - chances)) + shift)
    total = 0.0
    for states in itertools.product((0, 1), repeat=7):
        rows, pairs, whole = np.array(states[:4]), np.repeat(states[4:6], 2), states[6]
        probability = np.prod(np.where(states, chances, 1 - chances))
        total += probability * whole * 3 * (rows * pairs).sum()
    got = sparsejax.parametrizations.expected_sparsity(
        params, groups, (log_alpha[:4], log_alpha[4:6], log_alpha[6:])
    )
    assert float(got) == pytest.approx(1 - total / 12, abs=1e-6)


@pytest.mark.parametrize(
    ("pattern", "gates", "size"),
    [
        (sparsejax.patterns.Unstructured(), (4, 6), 1),
        (sparsejax.patterns.Channel("output"), (1, 6), 4),
        (sparsejax.patterns.Channel("input"), (4, 1), 6),
        (sparsejax.patterns.Block(2, 3), (2, 2), 6),
    ],
)
def test_patterns_count_their_units(pattern: Any, gates: tuple[int, ...], size: int):
    params = {"kernel": jnp.ones((4, 6))}
    method = sparsejax.parametrizations.hard_concrete(pattern, penalty_weight=1.0)
    aux = _aux(method, params, lambda i, shape: jnp.arange(np.prod(shape)).reshape(shape) / 7.0 - 1.0)
    assert aux.trained.log_alpha[0].shape == gates
    chances = np.asarray(jax.nn.sigmoid(aux.trained.log_alpha[0] - np.log(0.1 / 1.1) * 2 / 3))
    assert float(
        sparsejax.parametrizations.expected_sparsity(params, pattern, aux.trained.log_alpha)
    ) == pytest.approx(1 - size * chances.sum() / 24, abs=1e-6)
    penalty = method.penalty(params, method.advance(params, aux, 0))
    assert float(penalty) == pytest.approx(size * chances.sum(), rel=1e-6)


def test_stacked_layers_have_their_own_gates():
    params = {"layers": {"w": jnp.ones((3, 4, 5))}}
    groups = {"neurons": sparsejax.parametrizations.GateGroup((("layers/w", (0, 2)),))}
    (gates,) = resolve(groups, params, None, None)
    assert gates.shape == (3, 5)
    assert gates.factors[0].expand(jnp.ones((3, 5))).shape == (3, 1, 5)


def test_groups_of_the_tracer():
    """A head axis folded into a kernel: the consumer is scaled, the producers fall with it."""
    params = {"a": {"kernel": jnp.ones((8, 6))}, "b": jnp.ones(6), "c": {"kernel": jnp.ones((6, 4))}}
    fn = lambda p, x: jax.nn.relu(x @ p["a"]["kernel"] + p["b"]) @ p["c"]["kernel"]  # noqa: E731
    groups = sparsejax.prunable_groups(fn, params, jnp.ones((3, 8)))
    method = sparsejax.parametrizations.hard_concrete(groups, sparsity=1 / 3)
    shut = jnp.array([9.0, -9.0, 9.0, 9.0, -9.0, 9.0])
    aux = method.advance(params, _aux(method, params, lambda i, shape: shut), 0)
    effective, masks = method.apply(params, aux, None), method.masks(params, aux)
    np.testing.assert_array_equal(effective["c"]["kernel"][:, 0] == 0, shut < 0)
    assert bool((effective["a"]["kernel"] == 1).all())
    np.testing.assert_array_equal(masks["b"], shut > 0)
    np.testing.assert_array_equal(masks["a"]["kernel"][0], shut > 0)


HEADS = {
    "heads": sparsejax.parametrizations.GateGroup(
        (("block_*/out/kernel", 0),),
        follows=tuple((f"block_*/{name}/kernel", 1) for name in ("query", "key", "value")),
        units=4,
    ),
    "ffn": sparsejax.parametrizations.GateGroup(
        (("block_*/down/kernel", 0),), follows=(("block_*/up/kernel", 1),)
    ),
    "attention": sparsejax.parametrizations.GateGroup((("block_*/out/kernel", None),)),
    "mlp": sparsejax.parametrizations.GateGroup((("block_*/down/kernel", None),)),
}


@pytest.mark.slow
def test_what_falls_with_a_gate_changes_nothing_of_a_transformer():
    """The hard masks remove query, key, value and up columns that the shut gates made irrelevant."""
    task = models.transformer(quick=True)
    method = sparsejax.parametrizations.hard_concrete(HEADS, penalty_weight=1e-6)
    aux = _aux(
        method, task.params, lambda i, shape: 6.0 * jax.random.normal(jax.random.fold_in(KEY, i), shape)
    )
    effective = method.apply(task.params, aux, None)
    masks = method.masks(task.params, aux)
    landed = sparsejax.apply_masks(effective, masks)
    block = landed["block_0"]
    shut = np.asarray(block["out"]["kernel"] == 0).all(1)
    assert 0 < shut.sum() < shut.size
    for name in ("query", "key", "value"):
        np.testing.assert_array_equal(np.asarray(block[name]["kernel"] == 0).all(0), shut)
    assert bool((effective["block_0"]["query"]["kernel"] != 0).all())
    grads = jax.value_and_grad(task.loss)
    (before, slope), (after, other) = grads(effective, *task.batch), grads(landed, *task.batch)
    assert float(before) == pytest.approx(float(after), rel=1e-6)
    assert float(before) != pytest.approx(float(task.loss(task.params, *task.batch)), rel=1e-3)
    np.testing.assert_allclose(slope["head"]["kernel"], other["head"]["kernel"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("gates", "error", "match"),
    [
        (
            {"x": sparsejax.parametrizations.GateGroup((("block_*/upp/kernel", 0),))},
            PathError,
            "block_0/up/kernel",
        ),
        ({"x": sparsejax.parametrizations.GateGroup((("block_*/up/kernel", 2),))}, PatternError, "no axis 2"),
        (
            {"x": sparsejax.parametrizations.GateGroup((("block_*/up/kernel", 1),), units=3)},
            PatternError,
            "do not divide",
        ),
        (
            {
                "x": sparsejax.parametrizations.GateGroup(
                    (("block_*/up/kernel", 1), ("block_*/down/kernel", 1))
                )
            },
            PatternError,
            "the others",
        ),
        (
            {
                "x": sparsejax.parametrizations.GateGroup(
                    (("block_0*/up/kernel", 1),), follows=(("block_*/down/kernel", 0),)
                )
            },
            PatternError,
            "scale nothing",
        ),
        ({}, PathError, "empty"),
        *[
            (
                {"x": sparsejax.parametrizations.GateGroup((("block_*/up/kernel", 1),), units=units)},
                PatternError,
                "units is",
            )
            for units in (0, -1, 2.0, True)
        ],
        (
            {
                "x": sparsejax.parametrizations.GateGroup(
                    (("block_*/up/kernel", 1),), follows=(("block_*/up/kernel", 1),)
                )
            },
            PatternError,
            "named twice",
        ),
        ({"x": sparsejax.parametrizations.GateGroup((("block_*/up/kernel", (1, 0)),))}, PatternError, "rise"),
    ],
)
def test_bad_groups(gates: Any, error: type[Exception], match: str):
    with pytest.raises(error, match=match):
        sparsejax.init(sparsejax.l0(optax.sgd(0.1), sparsity=0.5, gates=gates, key=KEY), PARAMS)


def test_bad_arguments():
    for options in ({}, {"sparsity": 0.5, "penalty_weight": 1.0}):
        with pytest.raises(SparsityError, match="one of the two"):
            sparsejax.parametrizations.hard_concrete(sparsejax.patterns.Unstructured(), **options)
    with pytest.raises(SparsityError):
        sparsejax.parametrizations.hard_concrete(sparsejax.patterns.Unstructured(), sparsity=1.5)
    with pytest.raises(RandomKeyError, match="key"):
        sparsejax.reparametrize(
            optax.sgd(0.1),
            sparsejax.parametrizations.hard_concrete(sparsejax.patterns.Unstructured(), sparsity=0.5),
        ).init(PARAMS)
    biases = {"b": sparsejax.parametrizations.GateGroup((("block_*/up/bias", 0),))}
    method = sparsejax.parametrizations.hard_concrete(biases, penalty_weight=1.0)
    with pytest.raises(SparsityError, match="block_0/up/bias"):
        method.penalty(PARAMS, method.init(PARAMS, KEY))


@pytest.mark.parametrize("target", [0.0, 0.3, 0.95, 1.0])
def test_hard_masks_meet_a_target_that_the_gates_have_not(target: float):
    """Fresh gates expect 17 % zeros, whatever is asked for; the masks are off by half a weight a layer at most."""
    params = {"first": jnp.ones((20, 30)), "second": jnp.ones((30, 10))}
    method = sparsejax.parametrizations.hard_concrete(sparsejax.patterns.Unstructured(), sparsity=target)
    aux = method.advance(params, method.init(params, KEY), 0)
    assert (
        float(
            sparsejax.parametrizations.expected_sparsity(
                params, sparsejax.patterns.Unstructured(), aux.trained.log_alpha
            )
        )
        < 0.2
    )
    effective, masks = method.apply(params, aux, None), method.masks(params, aux)
    assert abs(sum(int(m.sum()) for m in jax.tree.leaves(masks)) - (1 - target) * 900) <= 1
    jax.tree.map(lambda e, m: np.testing.assert_array_equal(e != 0, m), effective, masks)


def test_the_target_is_met_with_gates_of_all_sizes_multiplied():
    """Layers, neurons and width of two blocks: off by what the smallest of them is, rounded."""
    wide = {
        f"block_{i}": {"up": {"kernel": jnp.ones((32, 64))}, "down": {"kernel": jnp.ones((64, 32))}}
        for i in range(2)
    }
    groups = {
        "ffn": sparsejax.parametrizations.GateGroup(
            (("block_*/down/kernel", 0),), follows=(("block_*/up/kernel", 1),)
        ),
        "width": sparsejax.parametrizations.GateGroup(
            (("block_*/up/kernel", 0),), follows=(("block_*/down/kernel", 1),), shared=True
        ),
    }
    method = sparsejax.parametrizations.hard_concrete(groups, sparsity=0.6)
    aux = method.advance(wide, method.init(wide, KEY), 0)
    masks = jax.tree.map(lambda m, p: jnp.broadcast_to(m, p.shape), method.masks(wide, aux), wide)
    assert float(sparsejax.masks.sparsity(masks, wide)) == pytest.approx(
        0.6, abs=0.02
    )  # half a width unit is 1.6 %


def test_groups_of_one_size_have_noise_of_their_own():
    """E[z₁z₂] = E z₁·E z₂: the same stream for both would make them one."""
    layers = {name: {"kernel": jnp.ones((50, 40))} for name in ("first", "second")}
    method = sparsejax.parametrizations.hard_concrete(sparsejax.patterns.Unstructured(), penalty_weight=0.0)
    drawn = method.apply(layers, method.init(layers, KEY), jax.random.key(5))
    first, second = (np.ravel(drawn[name]["kernel"]) for name in layers)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1  # 4.5 standard errors of 2,000 gates
    assert np.std(first) > 0.2


def test_gates_with_a_target_can_be_shut_beyond_19_in_20():
    layers = {"w": {"kernel": jnp.ones((10, 10))}}
    for options, open_at_most in (({"sparsity": 0.97}, 0.01), ({"penalty_weight": 1.0}, 0.06)):
        method = sparsejax.parametrizations.hard_concrete(sparsejax.patterns.Unstructured(), **options)
        aux = method.init(layers, KEY)
        shut = aux.trained._replace(log_alpha=tuple(a - 100.0 for a in aux.trained.log_alpha))
        aux = method.advance(layers, aux._replace(trained=shut), 0)
        found = sparsejax.parametrizations.expected_sparsity(
            layers, sparsejax.patterns.Unstructured(), aux.trained.log_alpha
        )
        # Clipped at ∓ln 1000 the paper's chance is σ(−6.908 + 1.599) = 0.5 %, at ∓ln 100 it is 4.7 %.
        assert open_at_most / 2 - 1e-3 < 1 - float(found) < open_at_most
