"""Which leaves are pruned and how: the filter, and what a user overrides by path."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax import Override
from sparsejax.errors import ParamsError, PathError, PatternError, SparsityError
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.patterns import NM, Block, Unstructured

EVERYTHING = {"prunable": lambda path, leaf: True}


def _model():
    return {
        "embed": {"embedding": jnp.ones((16, 8))},
        "position": jnp.ones((4, 8)),
        "layer_0": {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)},
        "norm": {"scale": jnp.ones(8)},
        "layer_1": {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4)},
        "head": {"kernel": jnp.ones((4, 2))},
    }


def test_the_default_filter_takes_the_kernels():
    layers = sparsejax.masks.prunable_layers(_model())
    assert [layer.path for layer in layers] == ["head/kernel", "layer_0/kernel", "layer_1/kernel"]
    assert all(layer.pattern == Unstructured() for layer in layers)


def test_several_rules_in_one_model_by_path():
    layers = sparsejax.masks.prunable_layers(
        _model(),
        pattern=Block(2, 2),
        overrides={
            "head/*": sparsejax.dense,
            "layer_0/*": Override(sparsity=0.5, pattern=NM(2, 4)),
            "embed/embedding": Override(prunable=True, axes=AxisRoles(input=(1,), output=(0,))),
        },
    )
    found = {layer.path: (layer.pattern, layer.sparsity, layer.axes.input) for layer in layers}
    assert found == {
        "embed/embedding": (Block(2, 2), None, (1,)),
        "layer_0/kernel": (NM(2, 4), 0.5, (0,)),
        "layer_1/kernel": (Block(2, 2), None, (0,)),
    }


def test_the_rules_hold_in_the_masks():
    rng = np.random.default_rng(0)
    params = {name: {"kernel": jnp.asarray(rng.normal(size=(8, 4)), jnp.float32)} for name in "abcd"}
    _, masks = sparsejax.prune_params(
        params,
        sparsity=0.75,
        overrides={
            "a/*": sparsejax.dense,
            "b/*": Override(sparsity=0.25),
            "c/*": Override(sparsity=0.5, pattern=NM(2, 4)),
        },
    )
    masks = {name: np.asarray(mask["kernel"]) for name, mask in masks.items()}
    assert masks["a"].shape == ()
    assert (masks["b"].sum(), masks["c"].sum(), masks["d"].sum()) == (24, 16, 8)
    assert (masks["c"].reshape(2, 4, 4).sum(1) == 2).all()


def test_the_first_override_that_matches_counts():
    layers = sparsejax.masks.prunable_layers(
        _model(), overrides={"layer_0/*": Override(sparsity=0.1), "*/kernel": Override(sparsity=0.2)}
    )
    assert [layer.sparsity for layer in layers] == [0.2, 0.1, 0.2]


def test_the_facts_of_a_stacked_convolution():
    roles = AxisRoles(input=(3,), output=(4,), spatial=(1, 2), stacked=(0,))
    (layer,) = sparsejax.masks.prunable_layers(
        {"convs": jnp.ones((5, 3, 3, 8, 16))}, overrides={"convs": Override(axes=roles)}
    )
    assert (layer.stack, layer.depth, layer.size, layer.units) == ((5,), 5, 1152, 1152)
    assert layer.dims == (8, 16, 3, 3)


def test_parameters_may_be_one_bare_array_a_list_or_hold_masked_nodes():
    assert [layer.path for layer in sparsejax.masks.prunable_layers(jnp.ones((2, 2)))] == [""]
    layers = sparsejax.masks.prunable_layers([jnp.ones((2, 2)), optax.MaskedNode(), (jnp.ones((2, 2)),)])
    assert [(layer.path, layer.index) for layer in layers] == [("0", 0), ("2/0", 2)]


# Odd leaves.


def test_an_empty_leaf_has_nothing_to_prune():
    params = {"none": jnp.ones((0, 4)), "kernel": jnp.ones((4, 4))}
    for distribution in (
        sparsejax.distributions.uniform(),
        sparsejax.distributions.erdos_renyi_kernel(),
        sparsejax.distributions.global_threshold(),
    ):
        pruned, masks = sparsejax.prune_params(params, sparsity=0.5, distribution=distribution)
        assert masks["none"].shape == ()
        assert int(pruned["kernel"].sum()) == 8
        assert sparsejax.summarize(pruned, masks).sparsity == 0.5


def test_integer_leaves_are_left_alone():
    params = {"w": jnp.ones((4, 4)), "steps": jnp.ones((4, 4), int), "flags": jnp.ones((2, 2), bool)}
    pruned, masks = sparsejax.prune_params(params, sparsity=0.5)
    assert masks["steps"].shape == masks["flags"].shape == ()
    assert pruned["steps"] is params["steps"]


@pytest.mark.parametrize(
    ("leaf", "what"),
    [
        (jnp.ones(()), r"'odd' with shape \(\)"),
        (jnp.ones((2, 2), int), "int32"),
        (jnp.ones((2, 2), bool), "bool"),
    ],
)
def test_a_filter_that_names_what_cannot_be_pruned_is_told_so(leaf, what):
    with pytest.raises(ParamsError, match=f"{what}.*Leave it out with prunable="):
        sparsejax.masks.prunable_layers({"w": jnp.ones((4, 4)), "odd": leaf}, **EVERYTHING)


def test_a_vector_can_be_pruned_on_demand():
    _, masks = sparsejax.prune_params({"bias": jnp.arange(4.0)}, sparsity=0.5, **EVERYTHING)
    assert masks["bias"].tolist() == [False, False, True, True]


NOTHING = {
    "no parameters": {},
    "an empty list": [],
    "only biases": {"bias": jnp.ones(3)},
    "only embeddings": {"embedding": jnp.ones((3, 3))},
    "only integers": {"w": jnp.ones((3, 3), int)},
    "only empty arrays": {"w": jnp.ones((0, 3))},
}
WITH_PARAMS = {
    "describe": sparsejax.masks.prunable_layers,
    "prune_params": lambda params: sparsejax.prune_params(params, sparsity=0.5),
    "gmp": lambda params: sparsejax.init(sparsejax.gmp(optax.sgd(0.1), sparsity=0.5, end_step=9), params),
}


@pytest.mark.parametrize("use", WITH_PARAMS)
@pytest.mark.parametrize("case", NOTHING)
def test_parameters_without_a_prunable_leaf_are_refused(case, use):
    with pytest.raises(
        ParamsError, match=r"No leaf of the parameters is prunable; there are: .*Pass prunable="
    ):
        WITH_PARAMS[use](NOTHING[case])


def test_the_error_shows_what_there_is():
    with pytest.raises(ParamsError, match=r"a/bias \(3,\), b \(2, 2\)"):
        sparsejax.masks.prunable_layers({"a": {"bias": jnp.ones(3)}, "b": jnp.ones((2, 2), int)})


# Overrides that cannot be meant.


def test_an_override_that_matches_nothing_is_refused():
    with pytest.raises(PathError, match=r"overrides: .*'encoder/\*' matches no parameter.*layer_0/kernel"):
        sparsejax.masks.prunable_layers(_model(), overrides={"encoder/*": sparsejax.dense})


def test_an_override_of_what_is_not_pruned_is_refused():
    with pytest.raises(
        PathError, match=r"'embed/\*' matches parameters, but none that is prunable.*prunable=True"
    ):
        sparsejax.masks.prunable_layers(_model(), overrides={"embed/*": Override(sparsity=0.5)})


def test_a_filter_that_matches_nothing_is_refused():
    with pytest.raises(ParamsError, match="No leaf"):
        sparsejax.masks.prunable_layers(_model(), prunable=lambda path, leaf: path.startswith("encoder"))


@pytest.mark.parametrize("bad", [90, -1, float("nan"), "0.5"])
def test_an_overrides_sparsity_is_checked_by_path(bad):
    with pytest.raises(SparsityError, match=r"overrides\['layer_0/kernel'\]\.sparsity"):
        sparsejax.masks.prunable_layers(_model(), overrides={"layer_0/*": Override(sparsity=bad)})


@pytest.mark.parametrize(
    "roles",
    [AxisRoles((0,), ()), AxisRoles((0,), (0,)), AxisRoles((0,), (1,), stacked=(1,)), AxisRoles((0,), (2,))],
)
def test_every_axis_needs_exactly_one_role(roles):
    with pytest.raises(PatternError, match=r"'layer_0/kernel' with shape \(8, 8\).*exactly one role"):
        sparsejax.masks.prunable_layers(_model(), overrides={"layer_0/kernel": Override(axes=roles)})
