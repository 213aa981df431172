"""The containers that parameters come in: one small network, 16 to 12 to 4, in each library's own hands."""

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (8, 16))
Y = jax.random.normal(jax.random.key(2), (8, 4))
SIZES = (192, 48)  # weights of the two kernels; (out, in) in equinox and the torch port


class Network(NamedTuple):
    """A model as its library hands it over.

    Attributes:
      params: what is trained.
      fn: ``fn(params, x)``, evaluation.
      step: ``step(params, state, x) -> (outputs, state)``, training; `state` is what else the model keeps.
      state: that state, at the beginning.
    """

    params: Any
    fn: Callable[[Any, Any], Any]
    step: Callable[[Any, Any, Any], Any]
    state: Any = ()


def _stateless(params: Any, fn: Callable[[Any, Any], Any]) -> Network:
    return Network(params, fn, lambda params, state, x: (fn(params, x), state))


def plain() -> Network:
    """Nested tuples and dicts; kernels called as nobody's convention has it."""
    w1, w2 = jax.random.normal(KEY, (16, 12)) / 4, jax.random.normal(jax.random.key(3), (12, 4)) / 4
    params = {"in": (w1, jnp.zeros(12)), "out": [w2]}
    return _stateless(params, lambda p, x: jnp.tanh(x @ p["in"][0] + p["in"][1]) @ p["out"][0])


def torch_port() -> Network:
    """As a state dict: flat names with dots, kernels (out, in)."""
    params = {
        "fc1.weight": jax.random.normal(KEY, (12, 16)) / 4,
        "fc1.bias": jnp.zeros(12),
        "fc2.weight": jax.random.normal(jax.random.key(3), (4, 12)) / 4,
    }
    return _stateless(
        params, lambda p, x: jnp.tanh(x @ p["fc1.weight"].T + p["fc1.bias"]) @ p["fc2.weight"].T
    )


def torchax() -> Network:
    """A PyTorch module itself: its `forward` runs on JAX arrays."""
    torch = pytest.importorskip("torch", reason="the extra torch")
    if (
        importlib.util.find_spec("torchax") is None
    ):  # imported as is, it stops at operators that torch has dropped
        pytest.skip("the extra torch")
    from sparsejax.interop.torch import from_torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 12), torch.nn.BatchNorm1d(12), torch.nn.Tanh(), torch.nn.Linear(12, 4)
    )
    return _stateless(*from_torch(model, torch.zeros(8, 16)))


def linen() -> Network:
    """With batch norm, whose statistics are a mutable collection."""
    from flax import linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.Dense(12)(x)
            x = jnp.tanh(nn.BatchNorm(use_running_average=not train)(x))
            return nn.Dense(4)(x)

    model = Model()
    variables = model.init(KEY, X, train=False)

    def step(params, stats, x):
        out, changed = model.apply(
            {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
        )
        return out, changed["batch_stats"]

    fn = lambda p, x: model.apply({"params": p, "batch_stats": variables["batch_stats"]}, x, train=False)  # noqa: E731
    return Network(variables["params"], fn, step, variables["batch_stats"])


def nnx_model() -> Any:
    """The nnx module itself, for `nnx.Optimizer`."""
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(16, 12, rngs=rngs)
            self.head = nnx.Linear(12, 4, rngs=rngs)

        def __call__(self, x):
            return self.head(jnp.tanh(self.hidden(x)))

    return Model(nnx.Rngs(0))


def nnx_state() -> Network:
    """An `nnx.State` of Params."""
    from flax import nnx

    graphdef, state = nnx.split(nnx_model(), nnx.Param)
    return _stateless(state, lambda p, x: nnx.merge(graphdef, p)(x))


def equinox() -> Network:
    """A module with functions inside; its arrays alone are trained."""
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(16, 4, 12, 1, activation=jnp.tanh, key=KEY)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return _stateless(params, lambda p, x: jax.vmap(eqx.combine(p, static))(x))


def haiku() -> Network:
    """Transformed with state: batch norm keeps running means."""
    hk = pytest.importorskip("haiku")

    def forward(x, is_training):
        x = hk.Linear(12)(x)
        x = jnp.tanh(hk.BatchNorm(True, True, 0.9)(x, is_training))
        return hk.Linear(4)(x)

    model = hk.without_apply_rng(hk.transform_with_state(forward))
    params, state = model.init(KEY, X, True)
    return Network(
        params,
        lambda p, x: model.apply(p, state, x, False)[0],
        lambda p, state, x: model.apply(p, state, x, True),
        state,
    )


CONTAINERS: dict[str, Callable[[], Network]] = {
    "plain": plain,
    "torch_port": torch_port,
    "linen": linen,
    "nnx": nnx_state,
    "equinox": equinox,
    "haiku": haiku,
    "torchax": torchax,
}
#: Their names, as `pytest.mark.parametrize` takes them.
ALL = [pytest.param(name, marks=pytest.mark.torch) if name == "torchax" else name for name in CONTAINERS]
