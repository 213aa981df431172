"""Small functions in plain JAX, each with something that makes pruning awkward: ``(fn, params, inputs)``."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Case = tuple[Callable[..., Any], Any, tuple[Any, ...]]
_NUMBERS = ("NHWC", "HWIO", "NHWC")


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed + sum(shape)).normal(size=shape), jnp.float32)


def weights(**shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    """Parameters of these shapes; no two alike, nothing zero."""
    made = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        fan_in = max(1, int(np.prod(shape[:-1])))
        made[name] = normal(*shape, seed=31 * number) * fan_in**-0.5 + 0.01
    return made


def conv(x: jax.Array, w: jax.Array, groups: int = 1, stride: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", dimension_numbers=_NUMBERS, feature_group_count=groups
    )


def rms(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def gqa_scan() -> Case:
    """A scanned decoder: RMS norm, grouped-query attention, rotary positions, gated FFN, tied embedding."""
    layers, width, kv, group, dim, ffn, vocab = 3, 10, 2, 2, 4, 12, 11
    params = weights(
        embedding=(vocab, width),
        final=(width,),
        norm1=(layers, width),
        norm2=(layers, width),
        q=(layers, width, kv * group * dim),
        k=(layers, width, kv * dim),
        v=(layers, width, kv * dim),
        o=(layers, kv * group * dim, width),
        gate=(layers, width, ffn),
        up=(layers, width, ffn),
        down=(layers, ffn, width),
    )
    stacked = {
        name: params.pop(name) for name in ("norm1", "norm2", "q", "k", "v", "o", "gate", "up", "down")
    }
    params["layers"] = stacked

    def rotate(x: jax.Array) -> jax.Array:
        angle = jnp.arange(x.shape[1])[:, None] * 10.0 ** -jnp.arange(dim // 2)
        a, b = jnp.split(x, 2, -1)
        sin, cos = (f(angle).reshape(x.shape[1], *(1,) * (x.ndim - 3), dim // 2) for f in (jnp.sin, jnp.cos))
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    def layer(x: jax.Array, p: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        batch, length = x.shape[:2]
        y = rms(x, p["norm1"])
        q = rotate((y @ p["q"]).reshape(batch, length, kv, group, dim))
        k = rotate((y @ p["k"]).reshape(batch, length, kv, dim))
        v = (y @ p["v"]).reshape(batch, length, kv, dim)
        logits = jnp.einsum("bqhgd,bkhd->bhgqk", q, k) / jnp.sqrt(dim)
        logits = jnp.where(jnp.tril(jnp.ones((length, length), bool)), logits, -1e9)
        mixed = jnp.einsum("bhgqk,bkhd->bqhgd", jax.nn.softmax(logits), v)
        x = x + mixed.reshape(batch, length, -1) @ p["o"]
        y = rms(x, p["norm2"])
        return x + (jax.nn.silu(y @ p["gate"]) * (y @ p["up"])) @ p["down"], None

    def fn(p: Any, tokens: jax.Array) -> jax.Array:
        x, _ = jax.lax.scan(jax.checkpoint(layer), p["embedding"][tokens], p["layers"])
        return rms(x, p["final"]) @ p["embedding"].T

    return fn, params, (jnp.asarray([[1, 4, 2, 9, 0], [3, 3, 7, 10, 5]]),)


def mobile() -> Case:
    """Inverted residuals with depthwise convolutions and squeeze-and-excitation."""
    params = weights(
        stem=(3, 3, 3, 6),
        expand=(1, 1, 6, 12),
        depth=(3, 3, 1, 12),
        s1=(12, 4),
        s2=(4, 12),
        project=(1, 1, 12, 6),
        head=(6, 3),
    )

    def fn(p: Any, x: jax.Array) -> jax.Array:
        x = conv(x, p["stem"], stride=2)
        y = jax.nn.relu6(conv(jax.nn.relu6(conv(x, p["expand"])), p["depth"], groups=12))
        y = y * jax.nn.sigmoid(jax.nn.relu(y.mean((1, 2), keepdims=True) @ p["s1"]) @ p["s2"])
        x = x + conv(y, p["project"])
        return jax.nn.relu(x).mean((1, 2)) @ p["head"]

    return fn, params, (normal(2, 6, 6, 3),)


def dense_net() -> Case:
    """Concatenation that grows, a split, and a shuffle of two halves."""
    params = weights(a=(3, 3, 3, 4), b=(3, 3, 7, 5), c=(3, 3, 12, 8), d=(1, 1, 8, 6), head=(14, 3))

    def fn(p: Any, x: jax.Array) -> jax.Array:
        x = jnp.concatenate([x, jax.nn.relu(conv(x, p["a"]))], -1)
        x = jnp.concatenate([x, jax.nn.relu(conv(x, p["b"]))], -1)
        y = conv(x, p["c"])
        left, right = jnp.split(y, 2, -1)
        y = jnp.concatenate([right, jnp.tanh(left)], -1)
        z = conv(y, p["d"])
        return jnp.concatenate([y, z], -1).max((1, 2)) @ p["head"]

    return fn, params, (normal(2, 5, 5, 3),)


def grouped() -> Case:
    """Grouped convolutions with a channel shuffle between them."""
    params = weights(a=(1, 1, 3, 12), b=(3, 3, 6, 12), c=(3, 3, 6, 8), head=(8, 3))

    def fn(p: Any, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(conv(conv(x, p["a"]), p["b"], groups=2))
        n, h, w, c = x.shape
        x = x.reshape(n, h, w, 2, c // 2).swapaxes(3, 4).reshape(n, h, w, c)
        return jax.nn.relu(conv(x, p["c"], groups=2)).mean((1, 2)) @ p["head"]

    return fn, params, (normal(2, 4, 4, 3),)


def group_norm() -> Case:
    """Group norm between convolutions: groups may go, or the same part of every group."""
    params = weights(a=(3, 3, 3, 8), scale=(8,), bias=(8,), b=(3, 3, 8, 3))

    def fn(p: Any, x: jax.Array) -> jax.Array:
        x = conv(x, p["a"])
        n, h, w, c = x.shape
        y = x.reshape(n, h, w, 2, c // 2)
        mean, var = y.mean((1, 2, 4), keepdims=True), y.var((1, 2, 4), keepdims=True)
        y = ((y - mean) * jax.lax.rsqrt(var + 1e-3)).reshape(x.shape) * p["scale"] + p["bias"]
        return conv(jax.nn.relu(y), p["b"])

    return fn, params, (normal(2, 4, 4, 3),)


def fused_attention() -> Case:
    """One projection for queries, keys and values, reshaped (heads, q+k+v); dropout between."""
    heads, dim, width = 3, 4, 9
    params = weights(qkv=(width, heads * 3 * dim), bias=(heads * 3 * dim,), o=(heads * dim, width))

    def fn(p: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        y = (x @ p["qkv"] + p["bias"]).reshape(*x.shape[:2], heads, 3 * dim)
        q, k, v = y[..., :dim], y[..., dim : 2 * dim], y[..., 2 * dim :]
        weights_ = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights_, v).reshape(*x.shape[:2], heads * dim)
        kept = jax.random.bernoulli(key, 0.7, mixed.shape)
        return x + jnp.where(kept, mixed / 0.7, 0.0) @ p["o"]

    return fn, params, (normal(2, 5, width), jax.random.key(0))


def recurrent() -> Case:
    """A gated recurrent cell whose state is pruned, with a while and a cond after it."""
    params = weights(x=(5, 24), h=(8, 24), b=(24,), out=(8, 3), mix=(8, 8))

    def fn(p: Any, x: jax.Array) -> jax.Array:
        def cell(h: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
            z, r, n = jnp.split(row @ p["x"] + h @ p["h"] + p["b"], 3, -1)
            h = h * jax.nn.sigmoid(z) + jnp.tanh(n) * jax.nn.sigmoid(r)
            return h, h

        start = jnp.zeros((x.shape[0], 8))
        h, states = jax.lax.scan(cell, start, x.swapaxes(0, 1))
        h = h + states.max(0)
        h = jax.lax.fori_loop(0, 2, lambda _, h: h + jnp.tanh(h) @ p["mix"], h)
        h = jax.lax.cond(x[0, 0, 0] > 0, lambda h: jnp.sin(h), lambda h: 2 * h, h)
        return h @ p["out"]

    return fn, params, (normal(2, 4, 5),)


def straight_through() -> Case:
    """Derivatives written by the user: a binary activation with a surrogate, and a clipped identity."""

    @jax.custom_jvp
    def step(x: jax.Array) -> jax.Array:
        return (x > 0).astype(x.dtype)

    @step.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        (x,), (dx,) = primals, tangents
        return step(x), dx / (1 + jnp.abs(x))

    @jax.custom_vjp
    def clipped(x: jax.Array, bound: float) -> jax.Array:
        return x

    clipped.defvjp(
        lambda x, bound: (x, (x, bound)),
        lambda kept, g: (g * (jnp.abs(kept[0]) < kept[1]) * kept[0], jnp.zeros_like(kept[1])),
    )
    params = weights(a=(5, 8), b=(8, 6), c=(6, 3))

    def fn(p: Any, x: jax.Array) -> jax.Array:
        h = step(x @ p["a"])
        return clipped(jnp.where(h > 2, h, 3 * h) @ p["b"], 1.5) @ p["c"]

    return fn, params, (normal(4, 5),)


def padded_shortcut() -> Case:
    """A residual branch whose shortcut is padded with zero channels, as in ResNet's option A."""
    params = weights(a=(3, 3, 3, 4), b=(3, 3, 4, 8), c=(3, 3, 8, 8), head=(8, 3))

    def fn(p: Any, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(conv(x, p["a"]))
        shortcut = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (2, 2)))
        x = jax.nn.relu(shortcut + conv(x, p["b"], stride=2))
        x = jax.nn.relu(x + conv(x, p["c"]))
        pooled = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")
        return pooled.sum((1, 2)) @ p["head"]

    return fn, params, (normal(2, 6, 6, 3),)


def experts() -> Case:
    """A soft mixture of experts, and a table of experts indexed by data."""
    params = weights(router=(6, 4), up=(4, 6, 10), down=(4, 10, 6), table=(5, 6, 6))

    def fn(p: Any, x: jax.Array, which: jax.Array) -> jax.Array:
        gates, chosen = jax.lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
        dense = jnp.zeros((x.shape[0], 4)).at[jnp.arange(x.shape[0])[:, None], chosen].set(gates)
        hidden = jax.nn.gelu(jnp.einsum("bi,eih->beh", x, p["up"]))
        x = x + jnp.einsum("beh,eho,be->bo", hidden, p["down"], dense)
        return jnp.einsum("bi,bio->bo", x, p["table"][which])

    return fn, params, (normal(3, 6), jnp.asarray([0, 4, 4]))


def constants() -> Case:
    """Arrays closed over, a one-hot lookup, repeats, and a weight norm."""
    fixed = normal(8, seed=5)
    params = weights(table=(7, 8), a=(8, 6), gain=(6,), b=(12, 3))

    def fn(p: Any, tokens: jax.Array) -> jax.Array:
        x = jax.nn.one_hot(tokens, 7) @ p["table"] * fixed
        w = p["a"] / jnp.sqrt(jnp.sum(p["a"] ** 2, 0, keepdims=True) + 1e-3) * p["gain"]
        return jnp.repeat(jax.nn.elu(x @ w), 2, -1) @ p["b"]

    return fn, params, (jnp.asarray([[1, 2, 6], [0, 0, 3]]),)


CASES: dict[str, Callable[[], Case]] = {
    case.__name__: case
    for case in (
        gqa_scan, mobile, dense_net, grouped, group_norm, fused_attention, recurrent, straight_through,
        padded_shortcut, experts, constants,
    )
}  # fmt: skip
