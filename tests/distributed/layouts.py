"""The parameters, their shardings and the recipes that the distributed tests share."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import sparsejax

#: Path -> (shape, layout on the mesh (data, model)): every way to shard a kernel that big models use.
LAYOUTS = {
    "mlp/Dense_0/kernel": ((64, 128), P("data", "model")),
    "mlp/Dense_0/bias": ((128,), P("model")),
    "mlp/fully_sharded/kernel": ((64, 128), P(("data", "model"), None)),
    "mlp/tensor_parallel/kernel": ((64, 128), P(None, ("data", "model"))),
    "mlp/replicated/kernel": ((64, 128), P()),
    "Conv_0/kernel": ((3, 3, 32, 32), P(None, None, "data", "model")),
    "attention/query/kernel": ((64, 4, 16), P("data", "model", None)),
    "attention/out/kernel": ((4, 16, 64), P("model", None, "data")),
    "blocks/Dense_0/kernel": ((8, 32, 64), P("data", None, "model")),
}
STEPS = 7
KEY_SEED = 3
_DENSE, _FULLY, _TENSOR, _REPLICATED = (
    f"mlp/{name}/kernel" for name in ("Dense_0", "fully_sharded", "tensor_parallel", "replicated")
)
_CONV, _QUERY, _OUT, _STACK = (
    f"{name}/kernel" for name in ("Conv_0", "attention/query", "attention/out", "blocks/Dense_0")
)
_BIAS = "mlp/Dense_0/bias"
_OPTIMIZER = optax.sgd(2.0**-4, momentum=1.0)  # exact on the values of `values`: sums and powers of two
# Each pattern meets several layouts; leaves that are not named here are unstructured.
_PRUNED = {
    _FULLY: (sparsejax.patterns.NM(2, 4), 0.5),
    _TENSOR: (sparsejax.patterns.Block(4, 4), 0.75),
    _CONV: (sparsejax.patterns.Block(4, 8), 0.5),
    _QUERY: (sparsejax.patterns.NM(1, 4), 0.75),
    _OUT: (sparsejax.patterns.Channel("output"), 0.5),
}
# Of exchanged masks each kind of pattern first, then the same elsewhere.
_EXCHANGED = {
    _FULLY: (sparsejax.patterns.Block(4, 4), 0.75),
    _TENSOR: (sparsejax.patterns.NM(2, 4), 0.5),
}
_EXCHANGED_REST = {
    _CONV: (sparsejax.patterns.NM(2, 4), 0.5),
    _OUT: (sparsejax.patterns.Block(4, 8), 0.5),
}


class Recipe(NamedTuple):
    """One case: a transformation, the paths it is run on, and which of the seeded values it needs."""

    tx: optax.GradientTransformationExtraArgs
    paths: tuple[str, ...] = tuple(LAYOUTS)
    exact_total: bool = False


def _patterns(choice: dict[str, tuple[Any, float]]) -> dict[str, sparsejax.Override]:
    return {path: sparsejax.Override(sparsity=s, pattern=pattern) for path, (pattern, s) in choice.items()}


def recipes() -> dict[str, Recipe]:
    """Every recipe by name."""
    key = jax.random.key(KEY_SEED)
    exchange = {"sparsity": 0.9, "total_steps": 12, "update_every": 2, "key": key}
    gradual = {"sparsity": 0.9, "end_step": 5, "update_every": 2}
    compete = {"distribution": sparsejax.distributions.global_threshold(), **gradual}
    blocks = {_TENSOR: sparsejax.Override(pattern=sparsejax.patterns.Block(2, 2, "max"))}
    return {
        "gmp": Recipe(sparsejax.gmp(_OPTIMIZER, overrides=_patterns(_PRUNED), **gradual)),
        "gmp_global": Recipe(
            sparsejax.gmp(_OPTIMIZER, overrides=blocks, **compete),
            (_DENSE, _BIAS, _TENSOR, _REPLICATED, _OUT),
        ),
        "gmp_global_stack": Recipe(sparsejax.gmp(_OPTIMIZER, **compete), (_DENSE, _STACK)),
        "snip": Recipe(
            sparsejax.snip(_OPTIMIZER, sparsity=0.9), (_DENSE, _BIAS, _CONV, _QUERY), exact_total=True
        ),
        "rigl": Recipe(
            sparsejax.rigl(_OPTIMIZER, overrides=_patterns(_EXCHANGED), **exchange),
            (_DENSE, _BIAS, _FULLY, _TENSOR, _STACK),
        ),
        "rigl_rest": Recipe(
            sparsejax.rigl(_OPTIMIZER, overrides=_patterns(_EXCHANGED_REST), **exchange),
            (_DENSE, _BIAS, _CONV, _OUT, _REPLICATED),
        ),
        "set": Recipe(sparsejax.set_(_OPTIMIZER, **exchange), (_DENSE, _BIAS, _REPLICATED, _STACK)),
        "static": Recipe(
            sparsejax.static_random(_OPTIMIZER, sparsity=0.9, key=key),
            (_DENSE, _BIAS, _FULLY, _TENSOR, _QUERY),
        ),
    }


def make_mesh(shape: tuple[int, int], names: tuple[str, str] = ("data", "model")) -> Mesh | None:
    """The mesh of all devices; None for one device."""
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * 2) if shape != (1, 1) else None


def values(seed: int, recipe: Recipe) -> dict[str, np.ndarray]:
    """Arrays like the parameters, equal on every process.

    Multiples of 1/8: sums, means of 2ⁿ and products are exact in any order, and ties abound. Where neither
    a pattern nor the recipe sums them, two kernels get values without ties.
    """
    source = np.random.default_rng(seed)
    drawn = {path: source.normal(size=shape) for path, (shape, _) in LAYOUTS.items()}
    smooth = () if recipe.exact_total else (_DENSE, _STACK)
    return {
        path: (drawn[path] if path in smooth else np.round(drawn[path] * 8) / 8).astype(np.float32)
        for path in recipe.paths
    }


def placer(mesh: Mesh | None) -> Callable[[np.ndarray, P], jax.Array]:
    """A function that puts a host array on the mesh; every process gives its own part of it."""

    def put(array: np.ndarray, spec: P) -> jax.Array:
        if mesh is None:
            return jax.device_put(array, jax.devices()[0])
        return jax.make_array_from_callback(
            array.shape, NamedSharding(mesh, spec), lambda index: array[index]
        )

    return put


def place(arrays: dict[str, np.ndarray], mesh: Mesh | None) -> dict[str, jax.Array]:
    """Puts arrays like the parameters where `LAYOUTS` says."""
    put = placer(mesh)
    return {path: put(array, LAYOUTS[path][1]) for path, array in arrays.items()}


def to_host(tree: Any) -> Any:
    """Whole arrays of a tree on every process, by one program."""
    leaf = jax.tree.leaves(tree)[0]
    if isinstance(leaf.sharding, NamedSharding):
        tree = _gather(leaf.sharding.mesh)(tree)
    return jax.tree.map(lambda array: np.asarray(array.addressable_data(0)), tree)


@functools.cache  # compiled once for a tree, however often it is read
def _gather(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))


def parts(array: jax.Array) -> int:
    """How many different parts of an array the devices hold; 1 where it is replicated."""
    return len({str(index) for index in array.sharding.devices_indices_map(array.shape).values()})
