"""Paths, equal for every library, and the default choice of what is prunable."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen, nnx

from sparsejax.errors import ParamsError, PathError
from sparsejax.params.default_filter import default_prunable
from sparsejax.params.paths import flatten_with_paths, map_with_path, match_paths


class Pair(NamedTuple):
    first: object
    second: object


def test_paths_of_every_container():
    params = {"a": [jnp.ones(1), (jnp.ones(1), jnp.ones(1))], "b": Pair(jnp.ones(1), {"c": jnp.ones(1)})}
    assert flatten_with_paths(params)[0] == ["a/0", "a/1/0", "a/1/1", "b/first", "b/second/c"]


def test_linen_and_nnx_give_the_same_kind_of_path():
    variables = jax.eval_shape(linen.Dense(3).init, jax.random.key(0), jnp.ones((1, 2)))["params"]
    state = nnx.state(nnx.eval_shape(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0))), nnx.Param)
    assert flatten_with_paths(variables)[0] == flatten_with_paths(state)[0] == ["bias", "kernel"]


def test_nnx_paths_are_the_same_with_variables_and_with_arrays():
    class Model(nnx.Module):
        def __init__(self):
            self.layers = nnx.List([nnx.Linear(2, 3, rngs=nnx.Rngs(0))])

    state = nnx.state(Model(), nnx.Param)
    assert (
        flatten_with_paths(state)[0]
        == flatten_with_paths(nnx.to_pure_dict(state))[0]
        == ["layers/0/bias", "layers/0/kernel"]
    )


def test_masked_nodes_stay_as_they_are():
    params = {"a": jnp.ones(2), "b": optax.MaskedNode()}
    assert flatten_with_paths(params)[0] == ["a", "b"]
    doubled = map_with_path(lambda path, leaf: 2 * leaf, params)
    assert doubled["a"].tolist() == [2, 2]
    assert doubled["b"] == optax.MaskedNode()


def test_trees_of_other_containers_go_together():
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    plain = nnx.to_pure_dict(state)
    total = map_with_path(lambda path, a, b: a + b, plain, state)
    assert jax.tree.structure(total) == jax.tree.structure(plain)


def test_trees_of_another_length_are_refused():
    with pytest.raises(ParamsError, match=r"1 leaves against 2; the first holds \['a'\]"):
        map_with_path(lambda path, a, b: a, {"a": 1.0}, {"a": 1.0, "b": 2.0})


MATRIX, VECTOR = jnp.ones((4, 4)), jnp.ones(4)
DEFAULT = {
    "Dense_0/kernel": (MATRIX, True),
    "w": (MATRIX, True),
    "attention/query/kernel": (jnp.ones((4, 2, 2)), True),
    "Conv_0/kernel": (jnp.ones((3, 3, 4, 4)), True),
    "blocks/Dense_0/kernel": (jnp.ones((12, 4, 4)), True),
    "half/kernel": (jnp.ones((4, 4), jnp.bfloat16), True),
    "Dense_0/bias": (VECTOR, False),
    "blocks/Dense_0/bias": (MATRIX, False),  # stacked biases are biases still
    "LayerNorm_0/scale": (VECTOR, False),
    "blocks/LayerNorm_0/scale": (MATRIX, False),
    "BatchNorm_0/kernel": (MATRIX, True),
    "Embed_0/embedding": (MATRIX, False),
    "embed/kernel": (MATRIX, True),
    "pos_embedding": (jnp.ones((1, 4, 4)), False),
    "position": (MATRIX, False),
    "cls": (jnp.ones((1, 1, 4)), False),
    "counts": (jnp.ones((4, 4), int), False),
    "temperature": (jnp.ones(()), False),
}


@pytest.mark.parametrize("path", DEFAULT)
def test_the_default_filter(path):
    leaf, expected = DEFAULT[path]
    assert default_prunable(path, leaf) is expected


def test_shapes_alone_are_enough():
    assert default_prunable("w", jax.ShapeDtypeStruct((2, 2), jnp.float32))
    assert not default_prunable("w", optax.MaskedNode())


def test_patterns_cross_slashes_and_the_first_counts():
    paths = ["a/b/kernel", "a/kernel", "c/kernel"]
    assert match_paths(["a/*", "*kernel"], paths, "x") == {
        "a/b/kernel": "a/*",
        "a/kernel": "a/*",
        "c/kernel": "*kernel",
    }
    assert match_paths([], paths, "x") == {}


def test_a_pattern_that_matches_nothing_names_itself_the_argument_and_the_paths():
    with pytest.raises(PathError) as error:
        match_paths(["b/*"], ["a/kernel"], "overrides")
    assert str(error.value) == (
        "overrides: the path pattern 'b/*' matches no parameter. Paths are joined by '/'; there are: a/kernel."
    )


def test_matching_knows_upper_and_lower_case():
    with pytest.raises(PathError):
        match_paths(["dense*"], ["Dense_0/kernel"], "overrides")
