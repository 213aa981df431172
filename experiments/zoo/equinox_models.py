"""Models of equinox, and of equimo and diffrax, which are built on it, small and random."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.zoo.model import Function, Model, normal, tokens


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
        build, lambda m, x: jax.vmap(lambda one: m(one, key=jax.random.key(0)))(x), normal(1, 3, size, size)
    )


def models() -> list[Model]:
    """The models.

    Returns:
      Them.
    """
    eqx, own = "equinox", ("equinox",)

    def model(name: str, library: str, needs: tuple[str, ...], *parts: Any) -> Model:
        return Model(name, library, needs, functools.partial(_equinox, *parts))

    convnext = {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]}
    vit = {"img_size": 32, "dim": 32, "patch_size": 8, "num_heads": [4], "depths": [2]}
    return [
        model("MLP", eqx, own, lambda e, k: e.nn.MLP(8, 4, 32, 3, key=k), _vmapped, lambda: normal(3, 8)),
        model("Transformer block", eqx, own, _eqx_transformer, _eqx_transformer_call, lambda: tokens(2, 6)),
        model("GRUCell, scanned", eqx, own, _eqx_gru, _eqx_gru_call, lambda: normal(3, 5, 8)),
        model("Conv2d, GroupNorm, MaxPool2d", eqx, own, _eqx_conv, _vmapped, lambda: normal(2, 3, 8, 8)),
        model(
            "Neural ODE (Tsit5)", "diffrax", (*own, "diffrax"), _diffrax, _diffrax_call, lambda: normal(3, 6)
        ),
        *(
            Model(name, "equimo", (*own, "equimo"), functools.partial(_equimo, name, 32, settings))
            for name, settings in (("ConvNeXt", convnext), ("VisionTransformer", vit))
        ),
    ]
