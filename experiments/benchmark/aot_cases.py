"""What `make aot` compiles: the kernels of each vendor's chips, and a step of training through them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple


class Case(NamedTuple):
    """What to compile, of arguments that are shapes."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    block: tuple[int, int]


def of_tpus() -> list[Case]:
    """The TPU kernels in both types, and a step of training through them."""
    import jax.numpy as jnp

    from sparsejax.kernels import tpu, tpu_decode

    cases = []
    for dtype in (jnp.bfloat16, jnp.float32):
        suffix = "" if dtype == jnp.bfloat16 else " float32"
        for case in _products(tpu, 1024, 2048, (128, 128), dtype):
            cases.append(case._replace(name=case.name + suffix))
    wide = [
        case._replace(name=f"{case.name} wide")
        for case in _products(tpu, 1024, 4096, (256, 512), jnp.bfloat16)
    ]
    return [*cases, *wide, *_decodes(tpu_decode, ("n_of_m",)), _training_step("tpu", 512)]


def of_gpus() -> list[Case]:
    """The Hopper kernels, the sparse tensor cores, and a step of training."""
    import jax.numpy as jnp

    from sparsejax.kernels import mosaic_decode, mosaic_gpu

    cases = []
    for block in mosaic_gpu.BLOCKS:
        for case in _products(mosaic_gpu, 4096, 4096, block, jnp.bfloat16):
            if case.name != "sdd" or block[0] >= 128:
                cases.append(case._replace(name=case.name if block[0] == 128 else f"{case.name} {block[0]}"))
    decodes = _decodes(mosaic_decode, ("n_of_m", "bitmap", "deltas"))
    return [*cases, *_semi_structured(4096), *decodes, _training_step("mosaic_gpu", 512)]


def _semi_structured(size: int) -> list[Case]:
    """A square 2:4 matrix on sparse tensor cores, in both tiles of rows."""
    import jax
    import jax.numpy as jnp

    from sparsejax.kernels import SemiStructured, sparse_tensor_cores

    values = jax.ShapeDtypeStruct((size, size // 2), jnp.bfloat16)
    w = SemiStructured(values, jax.ShapeDtypeStruct((size // 64, size // 64, 128), jnp.int32), (size, size))
    x = jax.ShapeDtypeStruct((size, size), jnp.bfloat16)
    return [
        Case(
            f"2:4 tensor cores, {tile[0]} rows",
            functools.partial(sparse_tensor_cores.multiply, tile=tile),
            (x, w),
            (4, 1),
        )
        for tile in sparse_tensor_cores.TILES
    ]


def _products(kernels: Any, rows: int, size: int, block: tuple[int, int], dtype: Any) -> list[Case]:
    """The three products of a square matrix of which a tenth of the blocks is live."""
    import jax
    import jax.numpy as jnp

    from sparsejax.kernels.topology import topology_of

    shape = lambda sizes, kind=dtype: jax.ShapeDtypeStruct(sizes, kind)  # noqa: E731
    grid = size // block[0], size // block[1]
    capacity = max(1, grid[0] * grid[1] // 10)
    topology = jax.eval_shape(lambda mask: topology_of(mask, capacity), shape(grid, jnp.bool_))
    x, data = shape((rows, size)), shape((capacity, *block))
    return [
        Case("dsd", lambda x, data, t: kernels.dsd(x, data, t, size), (x, data, topology), block),
        Case("dsd_t", lambda g, data, t: kernels.dsd_t(g, data, t, size), (x, data, topology), block),
        Case("sdd", lambda x, g, t: kernels.sdd(x, g, t, block), (x, x, topology), block),
    ]


def _decodes(kernels: Any, forms: tuple[str, ...]) -> list[Case]:
    """One row in bfloat16, and eight by eight-bit values, of matrices packed at a half."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from sparsejax.kernels import pack_bitmap, pack_deltas, pack_n_m

    size, cases = 1024, []
    inputs = np.arange(size)[:, None]
    # Two of each four that stand a quarter of the inputs apart, and half of the single weights.
    half = (inputs + inputs // (size // 2)) % 2 == 0
    dense = jnp.asarray(np.broadcast_to(half, (size, size)), jnp.bfloat16)
    packs = {"bitmap": pack_bitmap, "deltas": pack_deltas, "n_of_m": functools.partial(pack_n_m, n=2, m=4)}
    for form in forms:
        for rows, values in ((1, "float"), (8, "int8")):
            w = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), packs[form](dense, values=values)
            )
            x = jax.ShapeDtypeStruct((rows, size), jnp.bfloat16)
            name = f"{form} decode, {rows} row{'s' * (rows > 1)}, {values}"
            cases.append(Case(name, getattr(kernels, form), (x, w), (1, 1)))
    return cases


def _training_step(implementation: str, rows: int) -> Case:
    """A whole step of RigL in the compressed form on two layers: gradients, scores, moments, rewiring."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    import optax

    import sparsejax
    from sparsejax.kernels import start, train_compressed, with_probes
    from sparsejax.kernels.block_sparse import is_block_sparse

    block, width, dtype = (128, 128), 512, jnp.bfloat16
    recipe = functools.partial(
        sparsejax.rigl, sparsity=0.75, total_steps=100, update_every=10, key=jax.random.key(0)
    )
    tx = train_compressed(optax.adamw(1e-3), recipe, block=block)

    def begin() -> Any:
        drawn = {f"dense_{i}": {"kernel": jnp.ones((width, width), dtype)} for i in range(2)}
        params, state = start(tx, drawn, {f"dense_{i}/kernel": 4 for i in range(2)})
        chosen = lambda w: dataclasses.replace(w, implementation=implementation)  # noqa: E731
        return jax.tree.map(chosen, params, is_leaf=is_block_sparse), state

    def loss(params: Any, x: Any) -> Any:
        hidden = jax.nn.relu(x @ params["dense_0"]["kernel"])
        return jnp.mean(jnp.square((hidden @ params["dense_1"]["kernel"]).astype(jnp.float32)))

    def step(params: Any, state: Any, x: Any) -> Any:
        grads = jax.grad(loss, allow_int=True)(params, x)
        dense = lambda: jax.grad(loss, allow_int=True)(with_probes(params), x)  # noqa: E731
        updates, state = tx.update(grads, state, params, dense_grads_fn=dense)
        return optax.apply_updates(params, updates), state

    params, state = jax.eval_shape(begin)
    return Case("training step", step, (params, state, jax.ShapeDtypeStruct((rows, width), dtype)), block)
