"""Experts weighed by their router: REAP's formula, written out with hooks' numbers, gives the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import importances
from sparsejax.errors import PathError, TracingError
from sparsejax.structured import prune_structured
from sparsejax.tracing import prunable_groups
from tests.tracing.functions import normal, weights
from tests.tracing.mixtures import MIXTURES

E, K = 5, 2


def params():
    return weights(router=(6, E), up=(E, 6, 4), down=(E, 4, 3), bias=(E, 3), shared=(6, 3))


def gates(p, x):
    probabilities, chosen = jax.lax.top_k(jax.nn.softmax(x @ p["router"]), K)
    return probabilities / probabilities.sum(-1, keepdims=True), chosen


def gathered(p, x):
    g, chosen = gates(p, x)
    hidden = jax.nn.silu(jnp.einsum("ti,tkih->tkh", x, p["up"][chosen]))
    out = jnp.einsum("tkh,tkho->tko", hidden, p["down"][chosen]) + p["bias"][chosen]
    return jnp.einsum("tko,tk->to", out, g) + x @ p["shared"]


def dense(p, x):
    g, chosen = gates(p, x)
    combine = jnp.einsum("tk,tke->te", g, jax.nn.one_hot(chosen, p["router"].shape[-1]))
    hidden = jax.nn.silu(jnp.einsum("ti,eih->teh", x, p["up"]))
    out = jnp.einsum("teh,eho->teo", hidden, p["down"]) + p["bias"]
    return jnp.einsum("teo,te->to", out, combine) + x @ p["shared"]


def by_formula(p, batches, bias):
    """S_j over the tokens that chose j, one expert and one token at a time."""
    norms, counts = np.zeros(E), np.zeros(E)
    for x in batches:
        g, chosen = gates(p, x)
        for t in range(len(x)):
            for k in range(K):
                j = int(chosen[t, k])
                out = jax.nn.silu(x[t] @ p["up"][j]) @ p["down"][j] + (p["bias"][j] if bias else 0.0)
                norms[j] += float(g[t, k]) * float(jnp.linalg.norm(out))
                counts[j] += 1
    return norms / np.maximum(counts, 1), counts


@pytest.mark.parametrize("layer", [gathered, dense])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_papers_formula(layer, bias):
    p, batches = params(), [normal(9, 6), normal(4, 6, seed=8)]
    p["bias"] = p["bias"] * bias
    outputs = ("down", "bias") if bias else None
    groups = {n: g for n, g in prunable_groups(layer, p, batches[0]).items() if g.kind == "expert"}
    expected, counts = by_formula(p, batches, bias)
    (found,) = importances.routed_norm(layer, batches, outputs)(p, groups).values()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    (tokens,) = importances.routed_tokens(layer, batches, outputs)(p, groups).values()
    np.testing.assert_array_equal(tokens, counts)


def test_an_expert_that_nobody_chooses_goes_first():
    p = params()
    x = jnp.abs(normal(30, 6))
    p["router"] = jnp.abs(p["router"]).at[:, 3].set(-10.0)
    found = prune_structured(
        gathered,
        p,
        x,
        importance=importances.routed_norm(gathered, [x]),
        channel_ratio=0.2,
        kinds=("expert",),
        normalized=True,
    )
    assert found.keep["router:1"].tolist() == [True, True, True, False, True]
    assert found.importances["router:1"][3] == 0.0


def test_weights_and_other_kinds_are_told_apart():
    fn, p, inputs = MIXTURES["gathered"]()
    groups = prunable_groups(fn, p, inputs)
    with pytest.raises(TracingError, match="'up:2' is a group of kind 'neuron': only experts"):
        importances.routed_norm(fn, [inputs])(p, groups)
    mine = {"router:1": groups["router:1"]}
    with pytest.raises(TracingError, match="no batch came"):
        importances.routed_norm(fn, [])(p, mine)
    with pytest.raises(PathError, match="outputs"):
        importances.routed_norm(fn, [inputs], outputs="dwn")(p, mine)
    # By weight norm, experts are units like others.
    assert importances.l2()(p, mine)["router:1"].shape == (6,)
