"""Models of Flax, Haiku, Keras, equinox, equimo, diffrax, jraph and e3nn, small and random."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.zoo.model import Function, Model


def _normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _tokens(*shape: int, vocab: int = 40) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, vocab, shape), jnp.int32)


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
    return build(call, _normal(*shape))


# ---- Keras on its JAX backend


def _keras(name: str, size: int, **settings: Any) -> Function:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=5, classifier_activation=None, **settings
    )
    return keras_function(model, _normal(1, size, size, 3))


def keras_function(model: Any, x: jax.Array) -> Function:
    """A Keras model in inference as a function of its trainable variables; the others are closed over."""
    params = {variable.path: variable.value for variable in model.trainable_variables}
    fixed = [variable.value for variable in model.non_trainable_variables]
    paths = [variable.path for variable in model.trainable_variables]

    def fn(params: Any, x: jax.Array) -> jax.Array:
        return model.stateless_call([params[path] for path in paths], fixed, x, training=False)[0]

    return fn, params, (x,)


def _keras_models() -> list[Model]:
    made = [
        ("MobileNet", 32, {"alpha": 0.25}),
        ("VGG16", 32, {}),
        ("MobileNetV2", 32, {"alpha": 0.35}),
        ("MobileNetV3Small", 32, {}),
        ("ResNet50V2", 32, {}),
        ("ConvNeXtTiny", 32, {}),
        ("Xception", 71, {}),
        ("EfficientNetB0", 32, {}),
        ("InceptionV3", 75, {}),
        ("DenseNet121", 32, {}),
        ("EfficientNetV2B0", 32, {}),
        ("NASNetMobile", 32, {}),
    ]
    return [
        Model(name, "keras", ("keras",), functools.partial(_keras, name, size, **settings))
        for name, size, settings in made
    ]


# ---- equinox and what is built on it


def _equinox(build: Callable[[Any, Any], Any], call: Callable[[Any, Any], Any], *inputs: Any) -> Function:
    import equinox as eqx

    params, rest = eqx.partition(build(eqx, jax.random.key(0)), eqx.is_inexact_array)
    fn = lambda p, *x: call(eqx.combine(p, rest), *x)  # noqa: E731
    return fn, params, tuple(x() if callable(x) else x for x in inputs)


def _eqx_transformer(eqx: Any, key: Any) -> Any:
    keys = jax.random.split(key, 4)
    return (
        eqx.nn.Embedding(40, 24, key=keys[0]),
        eqx.nn.MultiheadAttention(4, 24, key=keys[1]),
        eqx.nn.MLP(24, 24, 40, 1, activation=jax.nn.gelu, key=keys[2]),
        eqx.nn.Linear(24, 5, key=keys[3]),
    )


def _eqx_transformer_call(model: Any, ids: jax.Array) -> jax.Array:
    table, attend, mlp, head = model
    x = jax.vmap(jax.vmap(table))(ids)
    x = x + jax.vmap(lambda row: attend(row, row, row))(x)
    return jax.vmap(jax.vmap(lambda h: head(h + mlp(h))))(x)


def _eqx_gru(eqx: Any, key: Any) -> Any:
    return eqx.nn.GRUCell(8, 16, key=key), eqx.nn.Linear(16, 3, key=key)


def _eqx_gru_call(model: Any, x: jax.Array) -> jax.Array:
    cell, head = model
    run = lambda row: jax.lax.scan(lambda h, x: (cell(x, h), None), jnp.zeros(16), row)[0]  # noqa: E731
    return jax.vmap(lambda row: head(run(row)))(x)


def _eqx_conv(eqx: Any, key: Any) -> Any:
    keys = jax.random.split(key, 3)
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 8, 3, padding=1, key=keys[0]),
            eqx.nn.GroupNorm(2, 8),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Conv2d(8, 12, 3, padding=1, key=keys[1]),
            eqx.nn.Lambda(jax.nn.gelu),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(12 * 16, 5, key=keys[2]),
        ]
    )


def _vmapped(model: Any, x: jax.Array) -> jax.Array:
    return jax.vmap(model)(x)


def _diffrax(eqx: Any, key: Any) -> Any:
    keys = jax.random.split(key, 2)
    return eqx.nn.MLP(6, 6, 24, 2, key=keys[0]), eqx.nn.Linear(6, 2, key=keys[1])


def _diffrax_call(model: Any, x: jax.Array) -> jax.Array:
    import diffrax

    field, head = model
    term = diffrax.ODETerm(lambda t, y, args: field(y))
    step = diffrax.ConstantStepSize()

    def solve(y: jax.Array) -> jax.Array:
        solution = diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, 0.25, y, stepsize_controller=step)
        return head(solution.ys[-1])

    return jax.vmap(solve)(x)


def _equimo(name: str, size: int, settings: dict[str, Any]) -> Function:
    import equimo.models

    def build(eqx: Any, key: Any) -> Any:
        return eqx.nn.inference_mode(
            getattr(equimo.models, name)(in_channels=3, num_classes=5, key=key, **settings)
        )

    return _equinox(
        build, lambda m, x: jax.vmap(lambda one: m(one, key=jax.random.key(0)))(x), _normal(1, 3, size, size)
    )


def _equinox_models() -> list[Model]:
    eqx, own = "equinox", ("equinox",)

    def model(name: str, library: str, needs: tuple[str, ...], *parts: Any) -> Model:
        return Model(name, library, needs, functools.partial(_equinox, *parts))

    convnext = {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]}
    vit = {"img_size": 32, "dim": 32, "patch_size": 8, "num_heads": [4], "depths": [2]}
    return [
        model("MLP", eqx, own, lambda e, k: e.nn.MLP(8, 4, 32, 3, key=k), _vmapped, lambda: _normal(3, 8)),
        model("Transformer block", eqx, own, _eqx_transformer, _eqx_transformer_call, lambda: _tokens(2, 6)),
        model("GRUCell, scanned", eqx, own, _eqx_gru, _eqx_gru_call, lambda: _normal(3, 5, 8)),
        model("Conv2d, GroupNorm, MaxPool2d", eqx, own, _eqx_conv, _vmapped, lambda: _normal(2, 3, 8, 8)),
        model(
            "Neural ODE (Tsit5)", "diffrax", (*own, "diffrax"), _diffrax, _diffrax_call, lambda: _normal(3, 6)
        ),
        *(
            Model(name, "equimo", (*own, "equimo"), functools.partial(_equimo, name, 32, settings))
            for name, settings in (("ConvNeXt", convnext), ("VisionTransformer", vit))
        ),
    ]


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
        ("MultiHeadAttention, qk-norm", _attention, lambda: _normal(2, 5, 16)),
        ("Bidirectional LSTM and GRU", _recurrent, lambda: _normal(2, 6, 8)),
        ("ConvLSTM", _conv_lstm, lambda: _normal(2, 4, 6, 6, 3)),
        ("WeightNorm, GroupNorm", _weight_norm, lambda: _normal(4, 8)),
    ]
    models = [Model(name, "flax", ("flax",), functools.partial(_linen, *parts)) for name, *parts in made]
    moe = functools.partial(_linen, _nano_moe, lambda: _tokens(2, 8), _first)
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
        nodes=_normal(6, 5), edges=_normal(9, 4), receivers=_tokens(9, vocab=6), senders=_tokens(9, vocab=6)[::-1],
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
    x = _normal(4, 10)
    return transformed.apply, transformed.init(jax.random.key(0), x), (x,)


MODELS: list[Model] = [
    *_flax_models(),
    *_haiku_models(),
    *_equinox_models(),
    Model("GraphConvolution", "jraph", ("jraph", "haiku"), functools.partial(_graph, "GraphConvolution")),
    Model("InteractionNetwork", "jraph", ("jraph", "haiku"), functools.partial(_graph, "InteractionNetwork")),
    Model("Equivariant MLP", "e3nn-jax", ("e3nn_jax", "haiku"), _e3nn),
    *_keras_models(),
]
