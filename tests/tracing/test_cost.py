"""model_cost: against XLA's own count, the papers' published counts, and hand-computed masks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax.errors import MaskError, ParamsError
from sparsejax.tracing import linear_ops, model_cost
from tests.tracing import networks


def xla_flops(fn, *args):
    return jax.jit(fn).lower(*args).cost_analysis()["flops"]


def abstract(shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
    ("module", "shape", "millions", "giga"),
    [
        # He et al. 2016 with the usual stride in the 3x3 convolution: 4.09 GMACs, 25.56 M parameters.
        (networks.ResNet50(), (1, 224, 224, 3), 25.557, 4.089),
        # Touvron et al. 2021, table 1: 22 M parameters, 4.6 GMACs.
        (networks.ViT(), (1, 224, 224, 3), 22.05, 4.6),
    ],
    ids=["resnet50", "vit_s16"],
)
def test_published_counts_and_xla(module, shape, millions, giga):
    variables = jax.eval_shape(module.init, jax.random.key(0), abstract(shape))
    params = variables["params"]
    others = {name: value for name, value in variables.items() if name != "params"}

    def fn(p, x):
        return module.apply({"params": p, **jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), others)}, x)

    cost = model_cost(fn, params, abstract(shape))
    assert cost.dense.parameters / 1e6 == pytest.approx(millions, rel=2e-3)
    assert cost.dense.multiply_adds / 1e9 == pytest.approx(giga, rel=1e-2)
    assert cost.dense.flops == pytest.approx(xla_flops(fn, params, abstract(shape)), rel=0.02)
    assert cost.sparse == cost.dense
    assert cost.counted


def test_strided_dilated_grouped_convolutions_equal_xla():
    params = {"a": abstract((3, 3, 8, 32)), "b": abstract((3, 3, 8, 64)), "c": abstract((3, 3, 64, 16))}
    numbers = ("NHWC", "HWIO", "NHWC")

    def fn(p, x):
        conv = jax.lax.conv_general_dilated
        x = conv(x, p["a"], (2, 1), "SAME", dimension_numbers=numbers, rhs_dilation=(1, 2))
        x = conv(x, p["b"], (1, 1), "VALID", dimension_numbers=numbers, feature_group_count=4)
        return conv(x, p["c"], (1, 1), ((2, 1), (3, 0)), dimension_numbers=numbers, lhs_dilation=(2, 3))

    x = abstract((2, 14, 13, 8))
    assert model_cost(fn, params, x).dense.flops == pytest.approx(xla_flops(fn, params, x), rel=1e-6)


def test_an_nnx_mlp_equals_xla():
    model = nnx.Sequential(
        nnx.Linear(64, 256, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(256, 32, rngs=nnx.Rngs(0))
    )
    graph, state = nnx.split(model)
    fn = lambda s, x: nnx.merge(graph, s)(x)  # noqa: E731
    cost = model_cost(fn, state, abstract((16, 64)))
    assert cost.dense.flops == pytest.approx(xla_flops(fn, state, abstract((16, 64))), rel=0.02)
    assert cost.dense.multiply_adds == 16 * (64 * 256 + 256 * 32)
    assert [op.paths for op in cost.ops] == [("layers/0/kernel",), ("layers/2/kernel",)]


def test_scan_counts_every_round_and_while_says_it_does_not():
    params = {"w": abstract((5, 8, 8))}
    scanned = model_cost(
        lambda p, x: jax.lax.scan(lambda h, w: (h @ w, None), x, p["w"])[0], params, abstract((3, 8))
    )
    assert scanned.dense.multiply_adds == 5 * 3 * 64
    assert scanned.ops[0].dense.parameters == 5 * 64
    looped = model_cost(
        lambda p, x: jax.lax.while_loop(lambda h: h.sum() < 1, lambda h: h @ p["w"][0], x),
        params,
        abstract((3, 8)),
    )
    assert not looped.counted
    assert looped.dense.multiply_adds == 3 * 64


def test_masks_reduce_parameters_work_and_bytes():
    params = {"w": abstract((8, 6)), "v": abstract((6, 4)), "b": abstract((4,))}
    masks = {
        "w": np.arange(48).reshape(8, 6) % 4 == 0,
        "v": np.array([True, False, True, False]),
        "b": np.array(True),
    }
    cost = model_cost(lambda p, x: (x @ p["w"]) @ p["v"] + p["b"], params, abstract((3, 8)), masks=masks)
    assert cost.dense.parameters == 48 + 24 + 4
    assert cost.sparse.parameters == 12 + 12 + 4
    assert cost.sparse.multiply_adds == 3 * (12 + 12)
    first, second = cost.ops
    assert first.dense.bytes == 4 * (24 + 48 + 18)
    assert first.sparse.bytes == 4 * (24 + 12 + 18)
    assert second.sparse.multiply_adds == 3 * 12
    # The bias addition is done in full.
    assert cost.sparse.flops == 2 * cost.sparse.multiply_adds + 12


def test_products_of_activations_stay_dense():
    params = {"q": abstract((8, 8)), "k": abstract((8, 8))}
    masks = {"q": np.zeros((8, 8), bool), "k": np.array(True)}
    cost = model_cost(lambda p, x: (x @ p["q"]) @ (x @ p["k"]).T, params, abstract((5, 8)), masks=masks)
    assert [op.paths for op in cost.ops] == [("q",), ("k",), ()]
    assert [op.sparse.multiply_adds for op in cost.ops] == [0, 5 * 64, 25 * 8]


def test_fused_weights_share_the_work():
    params = {"q": abstract((8, 6)), "k": abstract((8, 2))}
    masks = {"q": np.zeros((8, 6), bool), "k": np.array(True)}
    cost = model_cost(
        lambda p, x: x @ jnp.concatenate([p["q"], p["k"]], 1), params, abstract((3, 8)), masks=masks
    )
    assert cost.ops[0].paths == ("q", "k")
    assert cost.sparse.multiply_adds == pytest.approx(3 * 16)


def test_cond_counts_its_dearest_branch():
    def fn(p, x):
        return jax.lax.cond(x.sum() > 0, lambda h: h @ p["w"] @ p["w"], lambda h: h @ p["w"], x)

    assert model_cost(fn, {"w": abstract((8, 8))}, abstract((3, 8))).dense.multiply_adds == 2 * 3 * 64


def test_masks_that_do_not_fit_are_refused():
    params, x = {"w": abstract((8, 6))}, abstract((3, 8))
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    with pytest.raises(MaskError, match=r"mask of 'w' has shape \(3,\)"):
        model_cost(fn, params, x, masks={"w": np.ones(3, bool)})
    with pytest.raises(MaskError, match="type float32"):
        model_cost(fn, params, x, masks={"w": np.ones((8, 6), np.float32)})
    with pytest.raises(ParamsError, match="1 leaves against 2"):
        model_cost(fn, params, x, masks={"w": np.array(True), "v": np.array(True)})


def test_linen_dense_reports_the_users_line():
    module = nn.Dense(4)
    variables = jax.eval_shape(module.init, jax.random.key(0), abstract((2, 3)))
    cost = model_cost(lambda v, x: module.apply(v, x), variables, abstract((2, 3)))
    assert "test_cost.py" in cost.ops[0].source


def test_what_no_result_needs_costs_nothing():
    params = {
        "a": abstract((8, 64)),
        "b": abstract((64, 4)),
        "unused": abstract((64, 64)),
        "w": abstract((3, 64, 64)),
    }

    def both(p, x):
        h = jax.nn.relu(x @ p["a"])
        layer = jax.jit(lambda carry, w: (carry, carry @ w))
        return h @ p["b"], (h @ p["unused"]) @ p["b"], jax.lax.scan(layer, h, p["w"])[1]

    fn = lambda p, x: both(p, x)[0]  # noqa: E731
    x = abstract((16, 8))
    cost = model_cost(fn, params, x)
    assert [op.paths for op in cost.ops] == [("a",), ("b",)]
    assert cost.dense.flops == pytest.approx(xla_flops(fn, params, x), rel=1e-2)
    assert set(linear_ops(fn, params, x)) == {"a", "b"}


def test_what_is_scattered_is_added_once():
    def fn(p, x, at):
        return jax.ops.segment_sum(x @ p["w"], at, num_segments=5)

    params, inputs = {"w": abstract((8, 6))}, (abstract((20, 8)), jnp.zeros(20, jnp.int32))
    cost = model_cost(fn, params, inputs).dense.flops
    assert cost == pytest.approx(xla_flops(fn, params, *inputs), rel=0.02)
