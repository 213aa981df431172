"""What a sparsity is laid out over: which leaves are pruned, in which units, and how the layers share it."""

from collections.abc import Mapping
from typing import NamedTuple

from sparsejax.distributions.shares import Distribution, uniform
from sparsejax.errors import SparsityError
from sparsejax.masks.prunable import Layer, Override, prunable_layers
from sparsejax.params.axis_roles import Roles
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_kind
from sparsejax.patterns.pattern import Pattern, Unstructured
from sparsejax.typing import Params, Prunable


class Allocation(NamedTuple):
    """How one sparsity becomes the masks of many layers.

    Recipes take these six as arguments; rules and parametrizations take them as this one value.

    Attributes:
      distribution: shares the total's sparsity among the layers.
      pattern: what is kept or dropped together.
      prunable: ``(path, leaf) -> bool``, which leaves are pruned; `default_prunable` when None.
      overrides: ``{path pattern: Override}``, what differs by path.
      roles: ``{path: AxisRoles}``, what each axis is for, as `linear_ops` gives it; or a function of the parameters
        that returns it. Where None, leaves called ``kernel`` follow Flax's convention.
      min_kept: units (weights, blocks, channels) that every layer keeps at least, ≥ 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.patterns import NM
      >>> (layer,) = Allocation(pattern=NM(2, 4)).layers({"kernel": jnp.ones((8, 3)), "bias": jnp.ones(3)})
      >>> layer.path, str(layer.pattern)
      ('kernel', '2:4')
    """

    distribution: Distribution = uniform()
    pattern: Pattern | None = Unstructured()
    prunable: Prunable | None = None
    overrides: Mapping[str, Override] | None = None
    roles: Roles | None = None
    min_kept: int = 0

    def layers(self, params: Params) -> tuple[Layer, ...]:
        """The prunable leaves of `params` and what holds for each, as `prunable_layers` finds them."""
        require_kind(
            self.distribution, Distribution, "distribution", "distributions.uniform()", SparsityError
        )
        require_numbers(SparsityError, whole=True, min_kept=self.min_kept)
        layers = prunable_layers(
            params,
            pattern=self.pattern,
            prunable=self.prunable,
            overrides=self.overrides,
            roles=self.roles,
        )
        return tuple(layer._replace(min_kept=min(self.min_kept, layer.units)) for layer in layers)


#: The default of rules and parametrizations: single weights of `default_prunable` leaves, equally sparse.
UNIFORM = Allocation()
