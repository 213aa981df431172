"""A network between two stages of a recipe: its arrays, its masks, what it costs, and its file form."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.models.saved import load_saved, model_of_run
from experiments.record import files
from experiments.record.outcome import named_by_path
from experiments.run.compute_dtype import Apply
from sparsejax.interop.flax import stateful
from sparsejax.params.paths import flatten_with_paths
from sparsejax.tracing.cost import model_cost
from sparsejax.typing import MaskTree

Variables = dict[str, Any]  # {"params": …, "batch_stats": …}


class Network(NamedTuple):
    """What a stage gets, and what it leaves.

    Attributes:
      sizes: `config.model` before any width was pruned; its depth is the network's own.
      input_shape: of one example.
      classes: of a target.
      variables: ``{"params": …, "batch_stats": …}``; the weights that it computes with, quantized ones as what they
        stand for.
      masks: of the parameters, where some weights are pruned and have not been cut out; else None.
      stored_bytes: on disk, where a stage has a format of its own; None: see `bytes_on_disk`.
      place: the directory that it lies in, as the start of a run; None before it was saved.
    """

    sizes: Mapping[str, Any]
    input_shape: tuple[int, ...]
    classes: int
    variables: Variables
    masks: MaskTree | None = None
    stored_bytes: int | None = None
    place: pathlib.Path | None = None

    def function(self) -> Any:
        """``fn(variables, inputs) -> logits``, at inference."""
        apply = self.apply()
        return lambda variables, inputs: apply(variables["params"], variables["batch_stats"], inputs, False)[
            0
        ]

    def apply(self) -> Apply:
        """``(params, batch_stats, inputs, train) -> (logits, batch_stats)``."""
        init_from = str(self.place) if self.place else ""
        return stateful(model_of_run(self.sizes, init_from, self.input_shape, self.classes)).apply


def save_network(place: pathlib.Path, network: Network) -> Network:
    """Saves a network where a run may begin from it (`config.init_from`).

    Args:
      place: made when absent.
      network: what to save.

    Returns:
      The network, with its place.
    """
    place.mkdir(parents=True, exist_ok=True)
    for part in ("params", "batch_stats"):
        files.write_arrays(place / f"{part}.npz", named_by_path(network.variables[part]))
    if network.masks is not None:
        files.write_arrays(place / "masks.npz", named_by_path(network.masks))
    else:
        (place / "masks.npz").unlink(missing_ok=True)  # of an attempt that was killed
    described = {
        "model": dict(network.sizes),
        "input_shape": list(network.input_shape),
        "classes": network.classes,
        "stored_bytes": network.stored_bytes,
    }
    files.write_json(place / "model.json", described)  # last: it says that the arrays are there
    return network._replace(place=place)


def load_network(place: pathlib.Path) -> Network:
    """Reads what `save_network` wrote.

    Args:
      place: its directory.

    Returns:
      The network.

    Raises:
      WorkdirError: no network is there, or not all of it.
    """
    loaded = stateful(load_saved(place))
    described = json.loads((place / "model.json").read_text())
    variables = {"params": loaded.params, "batch_stats": loaded.batch_stats}
    masks = None
    if (place / "masks.npz").exists():
        with np.load(place / "masks.npz") as stored:
            found = {name: jnp.asarray(value) for name, value in stored.items()}
        paths, _, treedef = flatten_with_paths(loaded.params)
        masks = jax.tree.unflatten(treedef, [found[path] for path in paths])
    return Network(
        described["model"], tuple(described["input_shape"]), described["classes"], variables, masks,
        described["stored_bytes"], place,
    )  # fmt: skip


def costs(network: Network) -> dict[str, int]:
    """What a network costs.

    Args:
      network: any.

    Returns:
      ``parameters``, ``nonzero``, ``flops`` (two for each multiply-add of one example, masks spare none),
      ``bytes`` on disk, and ``kv_bytes``, of the keys and values that one token leaves in a cache; 0 without attention.
    """
    params = network.variables["params"]
    kind = np.int32 if len(network.input_shape) == 1 else np.float32
    one = jax.ShapeDtypeStruct((1, *network.input_shape), kind)
    work = model_cost(network.function(), network.variables, one).dense.multiply_adds
    return {
        "parameters": sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params)),
        "nonzero": sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(params)),
        "flops": int(2 * work),
        "bytes": network.stored_bytes or bytes_on_disk(network.variables, network.masks),
        "kv_bytes": kv_bytes(params),
    }


def bytes_on_disk(variables: Variables, masks: MaskTree | None) -> int:
    """Bytes of float32 arrays, pruned ones as a bitmask and the values that are left where that is less.

    ``Σ_leaves min(4n, 4·kept + ⌈n/8⌉)``

    Args:
      variables: the arrays.
      masks: of the parameters; None: nothing is pruned.

    Returns:
      The bytes.

    Example:
      >>> bytes_on_disk({"params": {"a": np.ones((4, 4))}, "batch_stats": {}}, {"a": np.eye(4, dtype=bool)})
      18
    """
    kept = {} if masks is None else dict(zip(*flatten_with_paths(masks)[:2], strict=True))
    total = 0
    for path, leaf in zip(*flatten_with_paths(variables["params"])[:2], strict=True):
        size = int(np.size(leaf))
        mask = np.asarray(kept.get(path, True))
        left = int(np.broadcast_to(mask, np.shape(leaf)).sum())
        total += min(4 * size, 4 * left + -(-size // 8))
    return total + sum(4 * int(np.size(leaf)) for leaf in jax.tree.leaves(variables["batch_stats"]))


def kv_bytes(params: Any) -> int:
    """Bytes of float32 keys and values that one token leaves in the cache of a transformer's layers.

    ``4·Σ_layers (key heads·key features + value heads·value features)``

    Args:
      params: the parameters; kernels ``…/attention/key/kernel`` and ``…/value/kernel`` are looked at.

    Returns:
      The bytes.

    Example:
      >>> kernel = {"kernel": np.ones((64, 2, 16))}
      >>> kv_bytes({"block_0": {"attention": {"key": kernel, "value": kernel}}})
      256
    """
    total = 0
    for path, leaf in zip(*flatten_with_paths(params)[:2], strict=True):
        if path.endswith(("attention/key/kernel", "attention/value/kernel")):
            *stacked, _, heads, features = np.shape(leaf)
            total += 4 * int(np.prod(stacked)) * heads * features
    return total
