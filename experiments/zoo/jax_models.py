"""Models of Flax, Haiku, jraph and e3nn, small and random; and the list of all JAX models."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.zoo import equinox_models, keras_models
from experiments.zoo.model import Function, Model, normal, tokens

# ---- Haiku: the networks in hk.nets, in evaluation; batch statistics are closed over


def _haiku(call: Callable[[Any, Any], Any], *inputs: Any) -> Function:
    import haiku as hk

    transformed = hk.without_apply_rng(hk.transform_with_state(lambda x, training: call(hk, x, training)))
    params, state = transformed.init(jax.random.key(0), *inputs, True)
    return lambda p, x: transformed.apply(p, state, x, False)[0], params, inputs


def _haiku_lstm(hk: Any, x: jax.Array, training: bool) -> jax.Array:
    del training
    core = hk.LSTM(16)
    outs, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))
    return hk.Linear(5)(outs)


def _haiku_attention(hk: Any, x: jax.Array, training: bool) -> jax.Array:
    del training
    init = hk.initializers.VarianceScaling(1.0)
    for _ in range(2):
        y = hk.LayerNorm(-1, True, True)(x)
        x = x + hk.MultiHeadAttention(4, 6, model_size=24, w_init=init)(y, y, y)
        x = x + hk.nets.MLP([40, 24])(hk.LayerNorm(-1, True, True)(x))
    return hk.Linear(5)(x)


def _haiku_models() -> list[Model]:
    images = _shape(2, 32, 32, 3)

    def resnet(name: str) -> Callable[[Any, Any], Any]:
        return lambda hk, x, training: getattr(hk.nets, name)(10)(x, is_training=training)

    made = [
        ("MLP", lambda hk, x, training: hk.nets.MLP([32, 24, 10])(x), _shape(4, 12)),
        (
            "MobileNetV1",
            lambda hk, x, training: hk.nets.MobileNetV1(num_classes=10)(x, is_training=training),
            images,
        ),
        ("ResNet18", resnet("ResNet18"), images),
        ("ResNet50", resnet("ResNet50"), images),
        ("LSTM, dynamic_unroll", _haiku_lstm, _shape(6, 3, 8)),
        ("MultiHeadAttention, two blocks", _haiku_attention, _shape(2, 7, 24)),
    ]
    return [
        Model(name, "dm-haiku", ("haiku",), functools.partial(_later, _haiku, call, shape))
        for name, call, shape in made
    ]


def _shape(*sizes: int) -> tuple[int, ...]:
    return sizes


def _later(build: Callable[..., Function], call: Any, shape: tuple[int, ...]) -> Function:
    return build(call, normal(*shape))


# ---- Flax models and layers of Flax


def _linen(
    build: Callable[[Any], Any], inputs: Callable[[], Any], pick: Callable[[Any], Any] = lambda out: out
) -> Function:
    from flax import linen

    module, x = build(linen), inputs()
    variables = module.init(jax.random.key(0), x)
    fixed = {name: value for name, value in variables.items() if name != "params"}
    return lambda p, x: pick(module.apply({"params": p, **fixed}, x)), variables["params"], (x,)


def _attention(n: Any) -> Any:
    return n.MultiHeadDotProductAttention(4, qkv_features=24, normalize_qk=True)


def _recurrent(n: Any) -> Any:
    both = n.Bidirectional(n.RNN(n.OptimizedLSTMCell(12)), n.RNN(n.GRUCell(12)))
    return n.Sequential([both, n.Dense(3)])


def _conv_lstm(n: Any) -> Any:
    return n.Sequential([n.RNN(n.ConvLSTMCell(8, (3, 3))), n.Conv(3, (1, 1))])


def _weight_norm(n: Any) -> Any:
    return n.Sequential([n.WeightNorm(n.Dense(16)), n.silu, n.GroupNorm(4), n.Dense(3)])


def _nano_moe(n: Any) -> Any:
    from nano_moe.config import NanoMoEConfig
    from nano_moe.model import NanoMoE

    del n
    sizes = {"n_layers": 2, "d_model": 24, "d_ff": 32, "n_experts": 5, "block_size": 16}
    return NanoMoE(NanoMoEConfig(vocab_size=40, dropout_rate=0.0, **sizes))


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def _flax_models() -> list[Model]:
    made = [
        ("MultiHeadAttention, qk-norm", _attention, lambda: normal(2, 5, 16)),
        ("Bidirectional LSTM and GRU", _recurrent, lambda: normal(2, 6, 8)),
        ("ConvLSTM", _conv_lstm, lambda: normal(2, 4, 6, 6, 3)),
        ("WeightNorm, GroupNorm", _weight_norm, lambda: normal(4, 8)),
    ]
    models = [Model(name, "flax", ("flax",), functools.partial(_linen, *parts)) for name, *parts in made]
    moe = functools.partial(_linen, _nano_moe, lambda: tokens(2, 8), _first)
    return [*models, Model("NanoMoE", "nano-moe-jax", ("flax", "nano_moe"), moe)]


# ---- graphs


def _graph(network: str) -> Function:
    import haiku as hk
    import jraph

    def call(graph: Any) -> Any:
        update = lambda size: hk.nets.MLP([16, size])  # noqa: E731
        if network == "GraphConvolution":
            first = jraph.GraphConvolution(
                lambda nodes: jax.nn.relu(hk.Linear(12)(nodes)), add_self_edges=True
            )
            second = jraph.GraphConvolution(lambda nodes: hk.Linear(3)(nodes))
            return second(first(graph)).nodes
        joined = lambda size: lambda *parts: update(size)(jnp.concatenate(parts, -1))  # noqa: E731
        first = jraph.InteractionNetwork(joined(10), joined(12), include_sent_messages_in_node_update=True)
        second = jraph.InteractionNetwork(joined(8), joined(3))
        return second(first(graph)).nodes

    graph = jraph.GraphsTuple(
        nodes=normal(6, 5), edges=normal(9, 4), receivers=tokens(9, vocab=6), senders=tokens(9, vocab=6)[::-1],
        n_node=jnp.asarray([6]), n_edge=jnp.asarray([9]), globals=None,
    )  # fmt: skip
    transformed = hk.without_apply_rng(hk.transform(call))
    return transformed.apply, transformed.init(jax.random.key(0), graph), (graph,)


def _e3nn() -> Function:
    import e3nn_jax as e3nn
    import haiku as hk

    def call(x: Any) -> Any:
        x = e3nn.IrrepsArray("4x0e + 2x1o", x)
        x = e3nn.haiku.Linear("12x0e + 6x1o")(x)
        x = e3nn.gate(e3nn.haiku.Linear("8x0e + 6x0e + 6x1o")(e3nn.tensor_product(x, e3nn.norm(x))))
        return e3nn.haiku.Linear("3x0e")(x).array

    transformed = hk.without_apply_rng(hk.transform(call))
    x = normal(4, 10)
    return transformed.apply, transformed.init(jax.random.key(0), x), (x,)


MODELS: list[Model] = [
    *_flax_models(),
    *_haiku_models(),
    *equinox_models.models(),
    Model("GraphConvolution", "jraph", ("jraph", "haiku"), functools.partial(_graph, "GraphConvolution")),
    Model("InteractionNetwork", "jraph", ("jraph", "haiku"), functools.partial(_graph, "InteractionNetwork")),
    Model("Equivariant MLP", "e3nn-jax", ("e3nn_jax", "haiku"), _e3nn),
    *keras_models.models(),
]
