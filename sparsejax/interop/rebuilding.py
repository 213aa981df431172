"""`rebuild`: an ordinary smaller nnx module from the parameters that `shrink` returns."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ParamsError
from sparsejax.params.paths import flatten_with_paths, is_masked_node, map_with_path
from sparsejax.typing import Params

if TYPE_CHECKING:
    from flax import nnx

#: Path to shape, of the module as it was.
Shapes = dict[str, tuple[int, ...]]
#: ``fit(module, name, old)`` changes the sizes that a module at the path `name` remembers, in place.
Fit = Callable[[Any, str, Shapes], None]


def rebuild(
    model: "nnx.Module",
    params: Params,
    batch_stats: Params | None = None,
    *,
    fits: Mapping[type, Fit] | None = None,
) -> "nnx.Module":
    """Puts smaller parameters into a copy of a module, and makes the sizes that the module remembers fit.

    Features of linear layers, convolutions and norms, heads and key-value heads, and the number of stacked blocks
    (`drop_branches` of whole ones) are read off the parameters. A
    change of the features inside heads would change attention's ``1/√head_dim``, so the query's weights are
    multiplied by ``√(new / old)``: the module computes what `shrink`'s function computes.

    Args:
      model: an nnx module made of flax's layers that reads sizes from its arrays; arrays or shapes. It is not
        changed.
      params: the smaller parameters, with the model's own paths: `shrink_tree` of ``functional(model)``'s.
      batch_stats: the smaller statistics of batch norm, where the model has them.
      fits: for modules of your own that remember sizes: class to ``fit(module, name, old)``, which sets them
        from the module's new arrays; `old` has the shapes before, by path. Looked at before flax's own.

    Returns:
      The smaller module. Save it, train it, or prune it again like any other.

    Raises:
      ParamsError: a parameter is missing or of another rank; or a size that the parameters do not tell: several
        channels in each group of a group norm or grouped convolution, rotary or sine positions over pruned
        features, some branches of stacked blocks. Use the function that `shrink` or `drop_branches` returned.

    Example:
      >>> import sparsejax
      >>> from flax import nnx
      >>> from sparsejax.interop.flax import functional
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs))
      >>> fn, params = functional(model)
      >>> found = sparsejax.prune_structured(fn, params, jnp.ones((2, 4)), channel_ratio=0.5)
      >>> small = rebuild(model, sparsejax.tracing.shrink_tree(params, found.groups, found.keep))
      >>> small.layers[0].out_features, small(jnp.ones((2, 4))).shape
      (4, (2, 3))
    """
    from flax import nnx

    known = {**(fits or {}), **_flax_fits()}
    graphdef, state = nnx.split(model)
    old = _shapes(nnx.to_pure_dict(state))
    given = _leaves(params) | ({} if batch_stats is None else _leaves(batch_stats))
    pure = map_with_path(lambda path, leaf: _chosen(path, leaf, given), nnx.to_pure_dict(state))
    if unknown := sorted(set(given) - set(old)):
        raise ParamsError(f"{type(model).__name__} has no variable {', '.join(map(repr, unknown[:4]))}.")
    small = nnx.merge(graphdef, pure)
    for path, module in nnx.iter_modules(small):
        name = "/".join(map(str, path))
        fit = next((fit for kind, fit in known.items() if isinstance(module, kind)), None)
        if fit is not None:
            fit(module, name, old)
    return small


def _leaves(values: Params) -> dict[str, Any]:
    paths, leaves, _ = flatten_with_paths(values)
    if absent := [path for path, leaf in zip(paths, leaves, strict=True) if is_masked_node(leaf)]:
        raise ParamsError(
            f"{absent[0]!r} was dropped with its residual branch: a module cannot leave it out. Use the function "
            "that drop_branches returned."
        )
    return dict(zip(paths, leaves, strict=True))


def _shapes(pure: Params) -> Shapes:
    paths, leaves, _ = flatten_with_paths(pure)
    return {path: np.shape(leaf) for path, leaf in zip(paths, leaves, strict=True)}


def _chosen(path: str, leaf: Any, given: dict[str, Any]) -> Any:
    if path not in given:
        raise ParamsError(
            f"{path!r} {np.shape(leaf)} is not among the parameters given; pass params= with all of them, and "
            "batch_stats= for a model with batch norm, both of the smaller sizes."
        )
    if np.ndim(given[path]) != np.ndim(leaf) or any(
        new > was for new, was in zip(np.shape(given[path]), np.shape(leaf), strict=True)
    ):
        raise ParamsError(
            f"{path!r} has shape {np.shape(given[path])}, which is no part of the model's {np.shape(leaf)}."
        )
    return given[path]


# ---- one function a kind of module; shapes are counted from the end, since stacked layers stand in front


def _join(name: str, leaf: str) -> str:
    return f"{name}/{leaf}" if name else leaf


def _linear(module: Any, name: str, old: Shapes) -> None:
    del name, old
    module.in_features, module.out_features = module.kernel.shape[-2:]


def _linear_general(module: Any, name: str, old: Shapes) -> None:
    del name, old
    inputs, outputs = len(_tuple(module.in_features)), len(_tuple(module.out_features))
    shape = module.kernel.shape[-inputs - outputs :]
    module.in_features, module.out_features = shape[:inputs], shape[inputs:]


def _tuple(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _conv(module: Any, name: str, old: Shapes) -> None:
    shape, before = module.kernel.shape, old[_join(name, "kernel")]
    groups = getattr(module, "feature_group_count", 1)
    if groups > 1 and shape != before:
        if before[-2] == 1 and before[-1] == groups:
            groups = shape[-1]
        elif shape[-1] != before[-1] or shape[-2] == before[-2]:
            refuse(name, "a grouped convolution with several channels in each group")
        module.feature_group_count = groups
    module.in_features, module.out_features = shape[-2] * groups, shape[-1]
    module.kernel_shape = shape


def _norm(module: Any, name: str, old: Shapes) -> None:
    del name, old
    arrays = [getattr(module, leaf, None) for leaf in ("scale", "bias", "mean")]
    sizes = [array.shape[-1] for array in arrays if array is not None and hasattr(array, "shape")]
    module.num_features = sizes[0] if sizes else module.num_features


def _group_norm(module: Any, name: str, old: Shapes) -> None:
    held = [leaf for leaf in ("scale", "bias") if _join(name, leaf) in old]
    if not held:
        return
    size, before = getattr(module, held[0]).shape[-1], old[_join(name, held[0])][-1]
    if size == before:
        return
    if module.num_groups == 1:
        module.group_size = size
    elif module.group_size == 1:
        module.num_groups = size
    else:
        refuse(name, "a group norm with several channels in each group")


def _embed(module: Any, name: str, old: Shapes) -> None:
    del name, old
    module.num_embeddings, module.features = module.embedding.shape[-2:]


def _attention(module: Any, name: str, old: Shapes) -> None:
    heads = scale_queries(module, name, old)
    head_dim = module.query.kernel.shape[-1]
    module.num_heads, module.head_dim, module.qkv_features = heads, head_dim, heads * head_dim
    module.in_features, module.out_features = module.query.kernel.shape[-3], module.out.kernel.shape[-1]
    module.num_kv_heads, module.in_kv_features = module.key.kernel.shape[-2], module.key.kernel.shape[-3]


def scale_queries(module: Any, name: str, old: Shapes) -> int:
    """Makes up for attention's ``1/√head_dim`` where features inside heads were pruned.

    Args:
      module: an attention module with a projection ``query`` into (heads, head_dim).
      name: its path.
      old: the shapes before.

    Returns:
      How many query heads there are now.

    Raises:
      ParamsError: the queries are normalised, or turned by their position, over the pruned features.
    """
    heads, head_dim = module.query.kernel.shape[-2:]
    before = old[_join(name, "query/kernel")][-1]
    if head_dim != before:
        if getattr(module, "query_ln", None) is not None:
            refuse(name, "pruned features of normalised queries")
        if getattr(module, "rotary", False):
            refuse(name, "rotary positions over pruned features of heads")
        for leaf in ("kernel", "bias"):
            if getattr(module.query, leaf, None) is not None:
                variable = getattr(module.query, leaf)
                variable.set_value(variable[...] * jnp.asarray(math.sqrt(head_dim / before), variable.dtype))
    return heads


def refuse(name: str, what: str) -> None:
    """Raises the error of a module whose sizes the parameters do not tell; `what` it has, at `name`."""
    raise ParamsError(
        f"{name!r} has {what}: the parameters do not tell how to build it smaller. Use the function that shrink "
        "or drop_branches returned, or leave that part whole."
    )


def _flax_fits() -> dict[Any, Fit]:
    from flax import nnx

    return {
        nnx.Linear: _linear,
        nnx.LinearGeneral: _linear_general,
        nnx.Conv: _conv,
        nnx.ConvTranspose: _conv,
        nnx.LayerNorm: _norm,
        nnx.RMSNorm: _norm,
        nnx.BatchNorm: _norm,
        nnx.GroupNorm: _group_norm,
        nnx.Embed: _embed,
        nnx.MultiHeadAttention: _attention,
    }
