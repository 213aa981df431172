"""A flat program computes what the function computes, whatever it was cut into; pieces and stages are what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import CalibrationError
from sparsejax.params.paths import flatten_with_paths
from sparsejax.post_training.sequential.flat_program import flatten, layers_of
from sparsejax.post_training.sequential.segments import advance, cut, make_passage
from sparsejax.post_training.sequential.stages import find_stages, stage_range
from tests.tracing import functions
from tests.tracing.functions import normal


def reversed_scan():
    params = {"layers": {"kernel": normal(3, 6, 6) / 3}, "scale": jnp.asarray(0.5)}

    def fn(p, x):
        def layer(x, w):
            y = jnp.tanh(x @ w * p["scale"])
            return y, jnp.sum(y, -1)

        x, sums = jax.lax.scan(layer, x, p["layers"]["kernel"], reverse=True)
        return {"x": x, "sums": sums, "one": 1.0}

    return fn, params, (normal(4, 6),)


def branches():
    params = {"a": normal(6, 6), "b": normal(6, 6)}

    def fn(p, x):
        y = jax.lax.cond(x[0, 0] > 0, lambda x: x @ p["a"], lambda x: jnp.tanh(x @ p["b"]), x)
        return jax.lax.while_loop(lambda s: s[1] < 3, lambda s: (s[0] @ p["a"] / 9, s[1] + 1), (y, 0))[0]

    return fn, params, (normal(4, 6),)


CASES = [*functions.CASES.values(), reversed_scan, branches]


def everything(fn, params, inputs):
    return flatten(fn, params, inputs, None), flatten_with_paths(params)[1]


def values(program, inputs):
    return dict(zip(program.inputs, jax.tree.leaves(inputs), strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_cut_at_every_stage_it_computes_the_function(case):
    fn, params, inputs = case()
    program, leaves = everything(fn, params, inputs)
    live, here, compiled = values(program, inputs), 0, {}
    for stage in find_stages(program):
        there = stage_range(program, stage)[0]
        live = advance(make_passage(program, here, there), leaves, live, compiled)
        here = there
    last = cut(program, here, len(program.instructions), program.outputs)
    found = last.run(
        [leaves[slot] for slot in last.leaves],
        [program.constants[slot] for slot in last.constants],
        [live[slot] for slot in last.live],
    )
    for a, b in zip(found, jax.tree.leaves(fn(params, *inputs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def names(program, stages):
    return [
        [
            program.traced.paths[leaf].split("/")[-1] + "".join(str(n) for _, n in taken)
            for leaf, taken in stage
        ]
        for stage in stages
    ]


def test_a_scanned_decoder_is_solved_in_four_stages_a_layer():
    program, _ = everything(*functions.gqa_scan())
    found = [sorted(stage) for stage in names(program, find_stages(program))]
    expected = [
        stage
        for n in range(3)
        for stage in ([f"k{n}", f"q{n}", f"v{n}"], [f"o{n}"], [f"gate{n}", f"up{n}"], [f"down{n}"])
    ]
    assert found == [*expected, ["embedding"]]


def test_blocks_that_do_the_same_share_their_compiled_function():
    fn, params, inputs = functions.gqa_scan()
    program, leaves = everything(fn, params, inputs)
    begins = [stage_range(program, stage)[0] for stage in find_stages(program)]
    live, compiled = values(program, inputs), {}
    for here, there in zip([0, *begins[:-1]], begins, strict=True):
        live = advance(make_passage(program, here, there), leaves, live, compiled)
    # Into the network, four ways within a layer (the last leads to the next one), and out of the last layer.
    assert len(compiled) == 6


def test_a_parallel_branch_and_a_layer_used_twice():
    params = {name: normal(6, 6) for name in ("a", "b", "c", "d", "shared")}

    def fn(p, x):
        y = jnp.tanh(x @ p["a"]) @ p["b"] + jnp.tanh(x @ p["c"])
        y = jnp.tanh(y @ p["shared"])
        return jnp.tanh(y @ p["d"]) @ p["shared"]

    program, _ = everything(fn, params, (normal(4, 6),))
    # c reads x as a does, but the function comes to it after b: it is solved with b.
    assert names(program, find_stages(program)) == [["a"], ["b", "c"], ["shared", "d"]]
    first, last = layers_of(program)[program.traced.paths.index("shared"), ()]
    assert first < last


def test_layers_inside_one_loop_are_one_stage():
    program, _ = everything(*branches())
    assert [sorted(stage) for stage in names(program, find_stages(program))] == [["a", "b"]]


def test_only_what_is_live_is_kept():
    params = {"layers": normal(5, 8, 8) / 3}

    def fn(p, x):
        return jax.lax.scan(lambda x, w: (x + jnp.tanh(jnp.sin(x) @ w), None), x, p["layers"])[0]

    program, _ = everything(fn, params, (normal(4, 8),))
    for stage in find_stages(program):
        # The residual and what the layer reads.
        assert len(program.live(stage_range(program, stage)[0])) == 2


def test_a_batch_that_does_not_fit_is_refused():
    with pytest.raises(CalibrationError, match=r"does not take a batch of shapes.*\(4, 5\)"):
        flatten(lambda p, x: x @ p["w"], {"w": normal(6, 6)}, (normal(4, 5),), None)
