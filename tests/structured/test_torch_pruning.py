"""The same small nets through torch-pruning: its groups, and its GroupMagnitudeImportance.

Needs torch and torch-pruning (tried with 2.13.0 and 1.6.1); run with ``pytest -m oracle``.
"""

import numpy as np
import pytest

import sparsejax

torch = pytest.importorskip("torch", reason="the oracle is torch-pruning")
tp = pytest.importorskip("torch_pruning", reason="the oracle is torch-pruning")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

pytestmark = pytest.mark.oracle
nn = torch.nn


class Residual(nn.Module):
    """Convolutions with batch norm, a residual sum, and a dense layer over flattened positions."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.back = nn.Conv2d(6, 8, 3, padding=1)
        self.dense, self.head = nn.Linear(8 * 16, 10), nn.Linear(10, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.back(torch.relu(self.inner_norm(self.inner(x))))
        return self.head(torch.relu(self.dense(torch.flatten(x, 1))))


class Concatenated(nn.Module):
    """Two branches concatenated, a pointwise convolution, a depthwise one.

    The depthwise one stands behind the concatenation's reader: before it, torch-pruning would tie both branches
    into one group, where ours stay two.
    """

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.point = nn.Conv2d(9, 6, 1)
        self.depth, self.head = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(torch.cat([self.left(x), self.right(x)], 1))
        return self.head(torch.relu(self.depth(self.point(x))).mean((2, 3)))


def conv(p, name, x, groups=1):
    pad = p[f"{name}/weight"].shape[-1] // 2
    numbers = ("NCHW", "OIHW", "NCHW")
    y = jax.lax.conv_general_dilated(
        x,
        p[f"{name}/weight"],
        (1, 1),
        [(pad, pad)] * 2,
        dimension_numbers=numbers,
        feature_group_count=groups,
    )
    return y + p[f"{name}/bias"][:, None, None]


def norm(p, name, x):
    part = lambda leaf: p[f"{name}/{leaf}"][:, None, None]  # noqa: E731
    y = (x - part("running_mean")) * jax.lax.rsqrt(part("running_var") + 1e-5)
    return y * part("weight") + part("bias")


def linear(p, name, x):
    return x @ p[f"{name}/weight"].T + p[f"{name}/bias"]


def residual(p, x):
    x = jax.nn.relu(norm(p, "norm", conv(p, "stem", x)))
    x = x + conv(p, "back", jax.nn.relu(norm(p, "inner_norm", conv(p, "inner", x))))
    return linear(p, "head", jax.nn.relu(linear(p, "dense", x.reshape(x.shape[0], -1))))


def concatenated(p, x):
    x = jax.nn.relu(jnp.concatenate([conv(p, "left", x), conv(p, "right", x)], 1))
    x = jax.nn.relu(conv(p, "depth", conv(p, "point", x), groups=6))
    return linear(p, "head", x.mean((2, 3)))


@pytest.fixture(
    scope="module", params=[(Residual, residual), (Concatenated, concatenated)], ids=["residual", "cat"]
)
def both(request):
    """(torch model, its groups by the root's name, function, params, our groups)."""
    torch.manual_seed(0)
    module, fn = request.param
    model = module().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    example = torch.randn(2, 3, 4, 4)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=example)
    names = {layer: name for name, layer in model.named_modules()}
    theirs = {}
    for group in graph.get_all_groups(ignored_layers=[model.head]):
        theirs[names[group[0].dep.target.module]] = group
    params = {
        name.replace(".", "/"): jnp.asarray(value.numpy())
        for name, value in model.state_dict().items()
        if "num_batches" not in name
    }
    x = jnp.asarray(example.numpy())
    np.testing.assert_allclose(fn(params, x), model(example).detach().numpy(), rtol=1e-3, atol=1e-4)
    return model, names, theirs, params, sparsejax.prunable_groups(fn, params, x)


def _weights(group, names):
    """{(weight, axis)} of a torch-pruning group."""
    found = set()
    for dep, _ in group:
        layer = dep.target.module
        if layer in names and hasattr(layer, "weight"):
            into = dep.handler.__name__ == "prune_in_channels" and getattr(layer, "groups", 1) == 1
            found.add((f"{names[layer]}/weight", int(into and not isinstance(layer, nn.BatchNorm2d))))
    return found


def test_the_groups_are_the_same(both):
    _, names, theirs, _, ours = both
    by_weights = {
        frozenset((m.path, m.axis) for m in group.members if m.path.endswith("weight")): group.size
        for group in ours.values()
    }
    assert by_weights == {frozenset(_weights(group, names)): len(group[0].idxs) for group in theirs.values()}


def test_the_group_magnitude_importance_is_the_same(both):
    _, names, theirs, params, ours = both
    # It leaves depthwise kernels out.
    counted = lambda name, member, leaf: (  # noqa: E731
        sparsejax.importances.weights_only(name, member, leaf) and not member.path.startswith("depth/")
    )
    found = sparsejax.importances.l2(counted)(params, ours)
    by_weights = {
        frozenset((m.path, m.axis) for m in group.members if m.path.endswith("weight")): name
        for name, group in ours.items()
    }
    importance = tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean", normalizer="mean")
    for group in theirs.values():
        name = by_weights[frozenset(_weights(group, names))]
        np.testing.assert_allclose(found[name], importance(group).detach().numpy(), rtol=1e-4)
