"""A value of the wrong kind is refused in words, before it is used."""

import jax.numpy as jnp
import optax
import pytest

import sparsejax
from sparsejax.errors import ParamsError, ScoreError, TracingError
from sparsejax.params.check_values import describe_value, require_arguments


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (ParamsError, "the class ParamsError, not a value made by it"),
        ({"a": jnp.ones((300, 100)), "b": jnp.ones(3)}, "a dict of 2 leaves"),
        (jnp.ones((2, 3)), "an array of shape (2, 3)"),
        (0.5, "0.5 (float)"),
        ("x" * 500, "the text"),
    ],
)
def test_the_words_are_few(value, words):
    assert words in describe_value(value)
    assert len(describe_value(value)) < 100


def test_a_function_of_other_arguments_is_shown_with_its_own():
    with pytest.raises(
        ParamsError, match=r"choose is f\(path, leaf, more\).*missing.*'more'.*\(path, leaf\) -> bool"
    ):
        require_arguments(_f, ("a", 1), "choose", "(path, leaf) -> bool", ParamsError)
    require_arguments(
        max, (1, 2), "choose", "(a, b)", ParamsError
    )  # a function that does not tell its arguments


def _f(path, leaf, more):
    return path, leaf, more


_f.__name__ = "f"


def _model(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


class _Module:
    def __call__(self, x):
        return x


PARAMS, X = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2))}, jnp.ones((4, 3))


@pytest.mark.parametrize(
    ("importance", "words"),
    [
        (sparsejax.importances.l2, r"importance is l2\(counted\)"),
        ("l2", "importance is the text 'l2'"),
        (lambda params, groups: 1.0, r"what the importance gives is 1\.0"),
    ],
)
def test_an_importance_that_is_none(importance, words):
    with pytest.raises(ScoreError, match=words):
        sparsejax.prune_structured(_model, PARAMS, X, importance=importance, flops_ratio=0.5)


def test_a_module_in_the_place_of_a_function():
    with pytest.raises(TracingError, match=r"fn is _Module\(x\).*nnx.merge\(graphdef, params\)\(x\)"):
        sparsejax.linear_ops(_Module(), PARAMS, X)


def test_a_filter_of_one_argument_and_a_tree_for_an_optimizer():
    tx = sparsejax.gmp(optax.sgd(0.1), sparsity=0.5, end_step=9, prunable=lambda path: True)
    with pytest.raises(ParamsError, match=r"prunable is <lambda>\(path\)"):
        sparsejax.init(tx, PARAMS)
    with pytest.raises(ParamsError, match="the first argument of init is a dict of 2 leaves"):
        sparsejax.init(PARAMS, tx)
