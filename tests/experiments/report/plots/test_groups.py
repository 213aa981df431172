"""The graph of groups has an edge for each tied axis; importances and sensitivities are drawn as they are."""

import jax
import jax.numpy as jnp
import numpy as np

import sparsejax
from experiments.report import plots


def _groups():
    def apply(params, x):
        x = jax.nn.relu(x @ params["a"])
        x = x + jax.nn.relu(x @ params["b"]) @ params["c"]
        return x @ params["d"]

    shapes = {"a": (8, 16), "b": (16, 32), "c": (32, 16), "d": (16, 4)}
    return sparsejax.prunable_groups(apply, {k: jnp.ones(s) for k, s in shapes.items()}, jnp.ones((2, 8)))


def test_every_tied_axis_is_a_dot_in_its_groups_column():
    groups = _groups()
    keep = {name: np.arange(group.size) < 4 for name, group in groups.items()}
    (axes,) = plots.group_graph("a network", groups, keep).axes
    rows = [text.get_text() for text in axes.get_yticklabels()]
    dots = {(int(x), rows[int(y)]) for dot in axes.collections for x, y in dot.get_offsets()}
    assert dots == {
        (column, f"{member.path}  axis {member.axis}")
        for column, group in enumerate(groups.values())
        for member in group.members
    }
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert names == [f"{name}\n{group.kind} {group.size} → 4" for name, group in groups.items()]


def test_the_graph_needs_no_choice():
    (axes,) = plots.group_graph("a network", _groups()).axes
    assert all("→" not in text.get_text() for text in axes.get_xticklabels())


def test_importances_put_each_unit_in_its_colour():
    values = {"a": np.array([1.0, 2.0, 3.0])}
    (axes,) = plots.importances("", values, {"a": np.array([True, False, True])}).axes
    kept, gone = (sorted(dots.get_offsets()[:, 0]) for dots in axes.collections)
    assert (kept, gone) == ([1.0, 3.0], [2.0])


def test_sensitivity_begins_at_the_dense_network():
    curves = {"a": [{"ratio": 0.5, "loss": 2.0}]}
    (axes,) = plots.sensitivity("", curves, {"loss": 1.0}, metric="loss").axes
    np.testing.assert_allclose(axes.get_lines()[0].get_xydata(), [[0, 1], [50, 2]])
