"""Parts of trees put together, prefixes spread, and what nnx.Optimizer wraps."""

import jax
import optax
import pytest
from flax import nnx

from sparsejax.errors import ParamsError
from sparsejax.params.partial_trees import overlay, spread, without_variables
from tests.helpers import Layer

NONE = optax.MaskedNode()


def test_parts_complete_one_another_at_any_depth():
    first = {"a": NONE, "b": Layer(1, NONE), "c": [NONE, 3]}
    second = {"a": Layer(4, 5), "b": Layer(NONE, 2), "c": [6, NONE]}
    assert overlay([first, second], absent=0) == {"a": Layer(4, 5), "b": Layer(1, 2), "c": [6, 3]}
    assert overlay([second, first], absent=0) == {"a": Layer(4, 5), "b": Layer(1, 2), "c": [6, 3]}


def test_what_no_part_has_is_absent_and_where_two_have_it_the_first_counts():
    assert overlay([{"a": NONE, "b": 1}, {"a": NONE, "b": 2}], absent="gone") == {"a": "gone", "b": 1}
    assert overlay([NONE, NONE], absent="gone") == "gone"


def test_parts_of_other_models_are_refused():
    with pytest.raises(ParamsError, match=r"do not fit: \[1, 2\] entries"):
        overlay([{"a": 1}, {"a": 1, "b": 2}], absent=0)


def test_a_prefix_stands_for_its_subtree():
    params = {"backbone": {"0": {"kernel": 1, "bias": 2}}, "head": Layer(3, 4)}
    masks = {"backbone": False, "head": Layer(True, False)}
    assert spread(masks, params) == [False, False, True, False]
    assert spread(True, params) == [True] * 4


@pytest.mark.parametrize(
    ("tree", "odd"),
    [
        ({"a": {"b": 1}}, ["a/b", "c"]),
        ({"a": 1, "c": 2, "d": 3}, ["d"]),
        ({"a": 1}, ["c"]),
    ],
)
def test_trees_that_do_not_fit_name_what_is_odd(tree, odd):
    with pytest.raises(KeyError) as caught:
        spread(tree, {"a": 1, "c": 2})
    assert sorted(set(odd) & set(caught.value.args)) == odd


def test_what_nnx_optimizer_wraps_is_bare_again_and_other_trees_pass():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    bare = without_variables(optimizer.opt_state)
    assert isinstance(bare[0].count, jax.Array)
    assert isinstance(bare[0].mu["kernel"], jax.Array)
    state = nnx.state(model, nnx.Param)
    assert without_variables(state) is state
