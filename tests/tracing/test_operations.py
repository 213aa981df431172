"""linear_ops: which parameter axis does what, through all that models do to a weight."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from sparsejax import Override, prune_params
from sparsejax.errors import ParamsError, TracingError
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.patterns import Channel
from sparsejax.tracing import linear_ops
from tests.tracing.functions import CASES


def ones(*shape):
    return jnp.ones(shape, jnp.float32)


def roles_of(fn, params, *inputs, path="w"):
    return linear_ops(fn, params, inputs)[path].roles


@pytest.mark.parametrize(
    ("shape", "fn", "expected"),
    [
        ((8, 6), lambda w, x: x @ w, AxisRoles((0,), (1,))),
        ((6, 8), lambda w, x: x @ w.T, AxisRoles((1,), (0,))),
        ((2, 3, 8), lambda w, x: jnp.einsum("bi,hki->bhk", x, w), AxisRoles((2,), (0, 1))),
        ((2, 3, 8), lambda w, x: x @ w.reshape(6, 8).T, AxisRoles((2,), (0, 1))),
        ((8, 6), lambda w, x: jnp.einsum("bi,iah->bah", x, w.reshape(8, 2, 3)), AxisRoles((0,), (1,))),
        (
            (2, 4, 6),
            lambda w, x: jnp.einsum("bgi,gio->bgo", x.reshape(3, 2, 4), w),
            AxisRoles((1,), (2,), (), (0,)),
        ),
        ((8, 6), lambda w, x: x @ w.astype(jnp.bfloat16), AxisRoles((0,), (1,))),
        ((8, 12), lambda w, x: x @ w[:, 3:9], AxisRoles((0,), (1,))),
        ((5, 8, 6), lambda w, x: x @ w[2], AxisRoles((1,), (2,), (), (0,))),
        ((8,), lambda w, x: x @ w, AxisRoles((0,), ())),
        ((8, 6), lambda w, x: x @ jnp.tanh(w), AxisRoles((0,), (1,))),
        ((8, 6), lambda w, x: x @ (w - w.mean(0)) / jnp.linalg.norm(w, axis=0), AxisRoles((0,), (1,))),
        ((8, 6), lambda w, x: x @ jnp.where(jnp.abs(w) > 0.5, w, 0.0), AxisRoles((0,), (1,))),
        ((8, 6), lambda w, x: x @ (w + jax.lax.stop_gradient(jnp.sign(w) - w)), AxisRoles((0,), (1,))),
        ((8, 6), lambda w, x: jax.jit(jax.checkpoint(lambda a, b: a @ b))(x, w), AxisRoles((0,), (1,))),
        ((8, 6), lambda w, x: jax.vmap(lambda row: row @ w)(x), AxisRoles((0,), (1,))),
        ((8, 6), lambda w, x: jnp.broadcast_to(x @ w, (4, 3, 6)), AxisRoles((0,), (1,))),
    ],
)
def test_roles_follow_the_weight(shape, fn, expected):
    assert roles_of(lambda p, x: fn(p["w"], x), {"w": ones(*shape)}, ones(3, 8)) == expected


def test_split_axis_takes_the_role_of_its_innermost_part():
    params, x = {"w": ones(8, 6)}, ones(3, 2, 8)
    assert roles_of(
        lambda p, x: jnp.einsum("bgi,igo->bgo", x, p["w"].reshape(8, 2, 3)), params, x
    ) == AxisRoles((0,), (1,))
    w = {"w": ones(8, 6)}
    assert roles_of(
        lambda p, x: jnp.einsum("bgi,gio->bgo", x, p["w"].reshape(2, 4, 6)), w, ones(3, 2, 4)
    ) == AxisRoles((0,), (1,))


def test_flops_and_shapes_of_a_product():
    op = linear_ops(lambda p, x: x @ p["w"], {"w": ones(8, 6)}, ones(3, 8))["w"]
    assert (op.flops, op.uses, op.input_shape, op.output_shape) == (2 * 3 * 8 * 6, 1, (3, 8), (3, 6))
    assert op.primitive == "dot_general"
    assert op.parameter_shape == (8, 6)
    assert op.counted
    assert "test_operations.py" in op.source


def test_masks_scales_and_dequantization():
    x = ones(3, 8)
    mask = jnp.asarray(np.arange(48).reshape(8, 6) % 2 == 0)
    closure = linear_ops(lambda p, x: x @ (p["w"] * mask), {"w": ones(8, 6)}, x)
    assert closure["w"].flops == 288
    as_input = linear_ops(lambda p, m, x: x @ (p["w"] * m["w"]), {"w": ones(8, 6)}, ({"w": mask}, x))
    assert as_input["w"].roles == AxisRoles((0,), (1,))
    beside = linear_ops(lambda p, x: x @ (p["w"] * p["mask"]), {"mask": mask, "w": ones(8, 6)}, x)
    assert list(beside) == ["w"]
    int8 = {"q": jnp.ones((8, 6), jnp.int8), "scale": ones(6), "zero": ones(6)}
    quantized = linear_ops(lambda p, x: x @ ((p["q"].astype(jnp.float32) - p["zero"]) * p["scale"]), int8, x)
    assert list(quantized) == ["q"]


def test_scales_and_biases_of_activations_are_no_linear_ops():
    params = {"w": ones(8, 6), "scale": ones(8), "position": ones(3, 8), "gain": ones(6)}
    ops = linear_ops(lambda p, x: ((x * p["scale"] + p["position"]) @ p["w"]) * p["gain"], params, ones(3, 8))
    assert list(ops) == ["w"]
    unbatched = linear_ops(lambda p, x: (x * p["scale"]) @ p["w"], params, ones(8))
    assert list(unbatched) == ["w"]


def test_low_rank_corrections_and_fused_weights():
    low_rank = {"w": ones(8, 6), "a": ones(8, 2), "b": ones(2, 6)}
    ops = linear_ops(lambda p, x: x @ (p["w"] + p["a"] @ p["b"]), low_rank, ones(3, 8))
    assert ops["w"].flops == 288
    assert ops["a"].flops == ops["b"].flops == 2 * 8 * 2 * 6
    fused = linear_ops(
        lambda p, x: x @ jnp.concatenate([p["q"], p["k"]], 1), {"q": ones(8, 6), "k": ones(8, 2)}, ones(3, 8)
    )
    assert (fused["q"].flops, fused["k"].flops) == (288, 96)
    stacked = linear_ops(
        lambda p, x: jnp.einsum("bi,nio->nbo", x, jnp.stack([p["q"], p["k"]])),
        {"q": ones(8, 6), "k": ones(8, 6)},
        ones(3, 8),
    )
    assert stacked["k"].flops == 288
    assert stacked["k"].roles == AxisRoles((0,), (1,))


def test_tied_embedding_counts_its_output_product_only():
    params, tokens = {"table": ones(50, 8)}, jnp.zeros((2, 5), jnp.int32)
    op = linear_ops(lambda p, t: p["table"][t] @ p["table"].T, params, tokens)["table"]
    assert op.roles == AxisRoles((1,), (0,))
    assert (op.uses, op.flops) == (1, 2 * 10 * 8 * 50)


def test_scan_stacks_layers_and_counts_rounds():
    params = {"w": ones(4, 8, 8), "shared": ones(8, 8)}

    def fn(p, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w) @ p["shared"], None), x, p["w"])[0]

    ops = linear_ops(fn, params, ones(3, 8))
    assert ops["w"].roles == AxisRoles((1,), (2,), (), (0,))
    assert ops["w"].flops == ops["shared"].flops == 4 * 2 * 3 * 8 * 8
    assert ops["shared"].roles == AxisRoles((0,), (1,))


def test_weights_in_a_carry_are_followed_while_they_do_not_change():
    params, x = {"w": ones(8, 8)}, ones(3, 8)
    kept = linear_ops(
        lambda p, x: jax.lax.scan(lambda c, _: ((c[0], c[1] @ c[0]), None), (p["w"], x), None, 5)[0][1],
        params,
        x,
    )
    assert kept["w"].flops == 5 * 2 * 3 * 64
    turned = linear_ops(
        lambda p, x: jax.lax.scan(lambda c, _: ((c[0].T, c[1] @ c[0]), None), (p["w"], x), None, 5)[0][1],
        params,
        x,
    )
    assert turned == {}


def test_while_counts_one_round_and_says_so():
    def fn(p, x):
        return jax.lax.while_loop(lambda h: h.sum() < 10, lambda h: h @ p["w"], x)

    op = linear_ops(fn, {"w": ones(8, 8)}, ones(3, 8))["w"]
    assert not op.counted
    assert op.flops == 2 * 3 * 64


def test_cond_counts_the_dearer_branch():
    def fn(p, x):
        twice = lambda h: h @ p["w"] @ p["w"]  # noqa: E731
        return jax.lax.cond(x.sum() > 0, twice, lambda h: h @ p["v"], x)

    ops = linear_ops(fn, {"w": ones(8, 8), "v": ones(8, 8)}, ones(3, 8))
    assert ops["w"].uses == 2
    assert ops["w"].flops == 2 * ops["v"].flops == 2 * 2 * 3 * 64


def test_custom_derivatives_are_seen_through():
    @jax.custom_vjp
    def straight(w):
        return jnp.sign(w)

    straight.defvjp(lambda w: (straight(w), None), lambda _, g: (g,))
    assert roles_of(
        lambda p, x: jax.nn.relu(x @ straight(p["w"])), {"w": ones(8, 6)}, ones(3, 8)
    ) == AxisRoles((0,), (1,))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolutions(groups):
    module = nn.Conv(16, (3, 5), feature_group_count=groups)
    variables = jax.eval_shape(module.init, jax.random.key(0), ones(2, 7, 9, 8))
    ops = linear_ops(module.apply, variables, ones(2, 7, 9, 8))
    op = ops["params/kernel"]
    assert op.roles == AxisRoles((2,), (3,), (0, 1))
    assert op.primitive == "conv_general_dilated"
    assert op.flops == 2 * (2 * 7 * 9 * 16) * (15 * 8 // groups)
    assert list(ops) == ["params/kernel"]


def test_linen_attention_finds_heads():
    module = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8, out_features=6)
    x = ones(3, 5, 6)
    variables = module.init(jax.random.key(0), x)
    ops = linear_ops(module.apply, variables, x)
    assert ops["params/query/kernel"].roles == AxisRoles((0,), (1, 2), heads=(1,))
    assert ops["params/out/kernel"].roles == AxisRoles((0, 1), (2,), heads=(0,))
    assert len(ops) == 4
    # What a pattern over heads needs: one score, and one bool of the mask, for each head of the kernel.
    roles = ops["params/out/kernel"].roles
    assert Channel("heads").units((2, 4, 6), roles) == 2
    assert Channel("heads").pool(ones(2, 4, 6), roles).shape == (2, 1, 1)


def test_heads_are_seen_by_what_is_done_with_them_not_by_name():
    def attend(q, k, v):
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k)), v)

    def fn(p, x):
        q, k, v = (jnp.einsum("bsi,hid->bshd", x, p[name]) for name in "rst")
        mixed = attend(q, k, v) + jnp.einsum("bshd,st->bthd", v, p["positions"])
        fused = (mixed.reshape(*x.shape[:2], 6) @ p["out"]).reshape(*x.shape[:2], 3, 6)
        again = attend(*jnp.split(fused, 3, -1))
        return again.reshape(*x.shape[:2], 6) @ p["fused_out"]

    params = {name: ones(2, 8, 3) for name in "rst"}
    params |= {"positions": ones(5, 5), "out": ones(6, 18), "fused_out": ones(6, 4)}
    ops = linear_ops(fn, params, ones(2, 5, 8))
    assert [ops[name].roles for name in "rst"] == [AxisRoles((1,), (0, 2), heads=(0,))] * 3
    # And so a pattern over heads needs no names: the head with the smaller weights goes.
    own = {path: Override(axes=op.roles) for path, op in ops.items() if op.roles.heads}
    heads = {name: params[name] * jnp.array([1.0, 0.5])[:, None, None] for name in own}
    _, masks = prune_params(heads, sparsity=0.5, pattern=Channel("heads"), overrides=own)
    assert [masks[name].ravel().tolist() for name in "rst"] == [[True, False]] * 3
    # Positions are mixed by the attention itself; heads and their features on one axis are no axis of heads.
    assert [ops[name].roles.heads for name in ("positions", "out", "fused_out")] == [()] * 3


def test_grouped_queries_number_heads_on_one_axis():
    fn, params, inputs = CASES["gqa_scan"]()
    assert all(op.roles.heads == () for op in linear_ops(fn, params, inputs).values())  # (heads · features)
    layers = params["layers"]
    whole = {"q": (3, 10, 4, 4), "k": (3, 10, 2, 4), "v": (3, 10, 2, 4), "o": (3, 4, 4, 10)}
    split = {**params, "layers": {**layers, **{n: layers[n].reshape(s) for n, s in whole.items()}}}

    def apart(p, tokens):
        joined = {n: p["layers"][n].reshape(layers[n].shape) for n in whole}
        return fn({**p, "layers": {**p["layers"], **joined}}, tokens)

    roles = {path: op.roles for path, op in linear_ops(apart, split, inputs).items()}
    assert roles["layers/q"] == AxisRoles((1,), (2, 3), stacked=(0,), heads=(2,))
    assert roles["layers/k"].heads == roles["layers/v"].heads == (2,)
    assert roles["layers/o"] == AxisRoles((1, 2), (3,), stacked=(0,), heads=(1,))


def test_nnx_modules_give_the_paths_of_their_state():
    model = nnx.Sequential(nnx.Linear(8, 6, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(6, 2, rngs=nnx.Rngs(1)))
    graph, state = nnx.split(model)
    ops = linear_ops(lambda s, x: nnx.merge(graph, s)(x), state, ones(3, 8))
    assert {path: op.roles for path, op in ops.items()} == {
        "layers/0/kernel": AxisRoles((0,), (1,)),
        "layers/2/kernel": AxisRoles((0,), (1,)),
    }


def test_source_is_the_users_line_not_the_librarys():
    module = nn.Dense(4)
    variables = module.init(jax.random.key(0), ones(2, 3))
    assert (
        "test_operations.py"
        in linear_ops(lambda v, x: module.apply(v, x), variables, ones(2, 3))["params/kernel"].source
    )


def test_shard_map_is_refused_with_a_way_out():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec()
    fn = jax.shard_map(lambda p, x: x @ p["w"], mesh=mesh, in_specs=(spec, spec), out_specs=spec)

    def caller(p, x):
        return fn(p, x)

    with pytest.raises(
        TracingError, match=r"shard_map at .*test_operations\.py.*Trace the function without it"
    ):
        linear_ops(caller, {"w": ones(8, 8)}, ones(3, 8))


def test_ambiguous_and_empty_parameters_are_refused():
    with pytest.raises(ParamsError, match="no leaf"):
        linear_ops(lambda p, x: x, {}, ones(3))
    with pytest.raises(ParamsError, match=r"share a path, .*: a/0"):
        linear_ops(lambda p, x: x, {"a": {"0": ones(1)}, "a/0": ones(1)}, ones(3))
