"""Where the arrays of a run's state lie: masks, moments and averages as their parameters do."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.devices.mesh import param_specs
from experiments.run.state import TrainState
from sparsejax.params.paths import flatten_with_paths


def state_shardings(state: TrainState, mesh: Mesh, *, population: bool) -> TrainState:
    """Chooses where each array of a state lies: masks, moments and averages as their parameters do.

    What belongs to a parameter is told by its path, which ends in the parameter's. An axis on which it has
    another size that the devices do not divide (packed masks, masks of whole channels) is replicated. A
    population is cut along its members.

    Args:
      state: arrays or shapes.
      mesh: from `make_mesh`.
      population: whether its leaves lead with an axis of members.

    Returns:
      A sharding for each leaf.
    """
    if population:
        members = NamedSharding(mesh, P(mesh.axis_names))
        return jax.tree.map(lambda leaf: members, state)._replace(step=NamedSharding(mesh, P()))
    specs = param_specs(state.params, mesh)
    keys = [path for path, _ in jax.tree_util.tree_flatten_with_path(state.params)[0]]
    by_keys = dict(zip(keys, (specs[path] for path in flatten_with_paths(state.params)[0]), strict=True))

    def place(keys: tuple[Any, ...], leaf: Any) -> NamedSharding:
        found = (by_keys[keys[i:]] for i in range(len(keys) + 1) if keys[i:] in by_keys)
        return NamedSharding(mesh, _fit(next(found, P()), leaf.shape, mesh.shape))

    return jax.tree_util.tree_map_with_path(place, state)


def _fit(spec: P, shape: tuple[int, ...], mesh: Mapping[str, int]) -> P:
    if len(spec) > len(shape):
        return P()  # of another rank than its parameter, such as adafactor's rows
    return P(*(axis if axis and n % mesh[axis] == 0 else None for axis, n in zip(spec, shape, strict=False)))
