"""What recipes share: their type, and the key that some need."""

import optax

from sparsejax.errors import RandomKeyError
from sparsejax.typing import Array

#: What every recipe returns.
Transformation = optax.GradientTransformationExtraArgs


def need_key(key: Array | None, name: str) -> None:
    """Refuses at once what would fail when the masks are drawn."""
    if key is None:
        raise RandomKeyError(f"{name} draws random masks and needs key=jax.random.key(seed).")
