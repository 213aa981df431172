"""Mixtures of experts written in several ways; all read their sizes from their parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tests.tracing.functions import Case, normal, weights

K = 2


def _params(experts: int = 6, **more: tuple[int, ...]) -> dict[str, jax.Array]:
    shapes = {"router": (6, experts), "up": (experts, 6, 10), "down": (experts, 10, 6), "head": (6, 3)}
    return weights(**shapes, **more)


def _gates(p: Any, x: jax.Array, renormalize: bool = True) -> tuple[jax.Array, jax.Array]:
    gates, chosen = jax.lax.top_k(jax.nn.softmax(x @ p["router"]), K)
    return (gates / gates.sum(-1, keepdims=True) if renormalize else gates), chosen


def _finish(p: Any, x: jax.Array, mixed: jax.Array) -> jax.Array:
    return (x + mixed) @ p["head"]


def dense_dispatch() -> Case:
    """Every expert runs on every token; a one-hot of the chosen says what counts."""

    def fn(p: Any, x: jax.Array) -> jax.Array:
        gates, chosen = _gates(p, x)
        combine = jnp.einsum("tk,tke->te", gates, jax.nn.one_hot(chosen, p["router"].shape[-1]))
        hidden = jax.nn.gelu(jnp.einsum("ti,eih->teh", x, p["up"]))
        return _finish(p, x, jnp.einsum("teh,eho,te->to", hidden, p["down"], combine))

    return fn, _params(), (normal(7, 6),)


def dense_scattered() -> Case:
    """The gates are written into a table of zeros by token and expert."""

    def fn(p: Any, x: jax.Array) -> jax.Array:
        gates, chosen = _gates(p, x, renormalize=False)
        table = jnp.zeros((x.shape[0], p["router"].shape[-1]))
        combine = table.at[jnp.arange(x.shape[0])[:, None], chosen].set(gates)
        hidden = jax.nn.gelu(jnp.einsum("ti,eih->teh", x, p["up"]))
        return _finish(p, x, jnp.einsum("teh,eho,te->to", hidden, p["down"], combine))

    return fn, _params(), (normal(7, 6),)


def gathered() -> Case:
    """The weights of the chosen experts are gathered for each token; one shared expert beside them."""

    def fn(p: Any, x: jax.Array) -> jax.Array:
        gates, chosen = _gates(p, x)
        hidden = jax.nn.silu(jnp.einsum("ti,tkih->tkh", x, p["up"][chosen]))
        mixed = jnp.einsum("tkh,tkho,tk->to", hidden, p["down"][chosen], gates)
        return _finish(p, x, mixed + jax.nn.silu(x @ p["shared_up"]) @ p["shared_down"])

    return fn, _params(shared_up=(6, 8), shared_down=(8, 6)), (normal(7, 6),)


def gathered_by_vmap() -> Case:
    """A token at a time, in a function that is mapped over tokens; biases of experts too."""

    def fn(p: Any, x: jax.Array) -> jax.Array:
        def token(row: jax.Array) -> jax.Array:
            gates, chosen = _gates(p, row)
            hidden = jax.nn.silu(jnp.einsum("i,kih->kh", row, p["up"][chosen]) + p["bias"][chosen])
            return jnp.einsum("kh,kho,k->o", hidden, p["down"][chosen], gates)

        return _finish(p, x, jax.vmap(token)(x))

    return fn, _params(bias=(6, 10)), (normal(7, 6),)


def switched() -> Case:
    """Switch routing: the one best expert, by argmax."""

    def fn(p: Any, x: jax.Array) -> jax.Array:
        probabilities = jax.nn.softmax(x @ p["router"])
        best = jnp.argmax(probabilities, -1)
        gate = jnp.take_along_axis(probabilities, best[:, None], -1)
        hidden = jax.nn.relu(jnp.einsum("ti,tih->th", x, p["up"][best]))
        return _finish(p, x, gate * jnp.einsum("th,tho->to", hidden, p["down"][best]))

    return fn, _params(), (normal(7, 6),)


def capacity() -> Case:
    """GShard: positions in each expert's buffer by a running count, then two einsums."""

    def fn(p: Any, x: jax.Array) -> jax.Array:
        gates, chosen = _gates(p, x)
        one_hot = jax.nn.one_hot(chosen, p["router"].shape[-1])  # (t, k, e)
        place = (jnp.cumsum(one_hot.reshape(-1, one_hot.shape[-1]), 0) - 1).reshape(one_hot.shape) * one_hot
        inside = one_hot * (place < 4)
        buffer = jax.nn.one_hot(place.sum(-1).astype(int), 4)  # (t, k, c)
        dispatch = jnp.einsum("tke,tkc->tec", inside, buffer)
        combine = jnp.einsum("tke,tkc,tk->tec", inside, buffer, gates)
        hidden = jax.nn.gelu(jnp.einsum("tec,ti,eih->ech", dispatch, x, p["up"]))
        return _finish(p, x, jnp.einsum("tec,ech,eho->to", combine, hidden, p["down"]))

    return fn, _params(), (normal(7, 6),)


def scanned() -> Case:
    """Two layers of a mixture under a scan, each with experts of its own."""
    layers = {name: jnp.stack([leaf, leaf[::-1] * 0.7]) for name, leaf in _params().items()}
    head = layers.pop("head")[0]

    def fn(p: Any, x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, p: Any) -> tuple[jax.Array, None]:
            gates, chosen = _gates(p, x)
            hidden = jax.nn.silu(jnp.einsum("ti,tkih->tkh", x, p["up"][chosen]))
            return x + jnp.einsum("tkh,tkho,tk->to", hidden, p["down"][chosen], gates), None

        return jax.lax.scan(layer, x, p["layers"])[0] @ p["head"]

    return fn, {"layers": layers, "head": head}, (normal(7, 6),)


MIXTURES: dict[str, Callable[[], Case]] = {
    case.__name__: case
    for case in (dense_dispatch, dense_scattered, gathered, gathered_by_vmap, switched, capacity, scanned)
}
