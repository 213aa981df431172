"""`size_account` equals `model_cost` of what is shrunk; kinds of groups, on plain functions and the zoo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.tracing import model_cost, prunable_groups, shrink, size_account
from tests.experiments.models.zoo import small
from tests.tracing.equality import random_keep
from tests.tracing.functions import CASES


def _shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("seed", [1, 2])
def test_the_account_is_the_cost_of_the_shrunk_function(name, seed):
    fn, params, inputs = CASES[name]()
    params = _shapes(params)
    groups = prunable_groups(fn, params, inputs)
    keep = random_keep(groups, seed, normalized=True)
    small_fn, cut = shrink(fn, params, inputs, groups, keep)
    account = size_account(fn, params, inputs)
    for function, given, counts in (
        (fn, params, {}),
        (small_fn, cut, {name: int(mask.sum(-1).max()) for name, mask in keep.items()}),
    ):
        cost = model_cost(function, given, inputs).dense
        assert account(counts) == (cost.parameters, cost.multiply_adds)


def test_of_a_cond_the_dearest_branch_counts_and_of_a_while_one_round():
    params = {"a": jnp.ones((4, 6)), "b": jnp.ones((6, 6)), "c": jnp.ones((6, 2))}

    def fn(p, x):
        y = jax.lax.cond(x[0, 0] > 0, lambda y: y @ p["b"] @ p["b"], lambda y: y @ p["b"], x @ p["a"])
        y = jax.lax.while_loop(lambda y: y[0, 0] > x[0, 0], lambda y: jnp.tanh(y @ p["b"]), y)
        return y @ p["c"]

    account = size_account(fn, params, jnp.ones((3, 4)))
    assert account({}).multiply_adds == 3 * (4 * 6 + 2 * 36 + 36 + 6 * 2)
    with pytest.raises(sparsejax.errors.TracingError, match="no prunable group 'zz'"):
        account({"zz": 1})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", {"neuron": 1}),
        ("lenet", {"channel": 1, "neuron": 1}),
        ("resnet", {"residual": 2, "channel": 2}),
        ("vit", {"residual": 1, "head": 2, "head_dim": 4, "neuron": 2}),
        ("encoder_scanned", {"residual": 1, "head": 1, "head_dim": 2, "neuron": 1}),
        # Query heads that share a key are heads as well; pairs of rotary features are one group of head_dims.
        ("llama", {"residual": 1, "head": 4, "head_dim": 4, "neuron": 2}),
    ],
)
def test_kinds_of_the_zoo(name, expected):
    model, inputs = small(name)
    fn = lambda p, x: model.apply(p, model.batch_stats, x, train=False)[0]  # noqa: E731
    groups = prunable_groups(fn, _shapes(model.params), inputs)
    kinds = [group.kind for group in groups.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == expected
    # Weights alone read all but the features that queries and keys share and what a norm or a mean reads.
    read = {name for name, group in groups.items() if not group.outgoing}
    assert read == {
        name
        for name, group in groups.items()
        if group.normalized
        or (group.kind == "head_dim" and not any(m.role == "input" for m in group.members))
    }


def test_roles_of_members():
    fn, params, inputs = CASES["mobile"]()
    groups = prunable_groups(fn, params, inputs)
    members = {(m.path, m.axis): m.role for m in groups["expand:3"].members}
    assert members == {
        ("expand", 3): "output",
        ("depth", 3): "output",
        ("s1", 0): "input",
        ("s2", 1): "output",
        ("project", 2): "input",
    }
    params = {"w": jnp.ones((4, 6)), "out": jnp.ones((6, 4))}
    tied = prunable_groups(lambda p, x: (x @ p["w"]) @ p["w"].T @ p["w"] @ p["out"], params, jnp.ones((2, 4)))
    roles = {(m.path, m.axis): m.role for group in tied.values() for m in group.members}
    assert roles["w", 1] != "input"
    assert np.all([m.role == "input" for g in tied.values() for m in g.members if m.path == "out"])
