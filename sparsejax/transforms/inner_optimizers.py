"""What the optimizer inside may be: which cannot serve, and whose fresh moments need more than zeros."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax.errors import WrapperError
from sparsejax.transforms.reset_moments import reset_off_mask

NO_LOOKAHEAD = (
    "It is not supported, inside or outside: it keeps two sets of parameters and averages them, which leaves the "
    "masks. Train with the optimizer within it, and average parameters beside the training: sparsejax.apply_masks puts "
    "an average on the masks."
)

# A first step this many times an ordinary one is an accident, not Adam's missing bias correction (3.2 times).
_FAR = 100.0


def refuse_lookahead(inner_state: Any) -> None:
    """Refuses `optax.lookahead` as the inner optimizer.

    Args:
      inner_state: the inner optimizer's.

    Raises:
      WrapperError: it is there.
    """
    is_one = lambda node: isinstance(node, optax.LookaheadState)  # noqa: E731
    if any(map(is_one, jax.tree.leaves(inner_state, is_leaf=is_one))):
        raise WrapperError(f"optax.lookahead stands inside sparsify or reparametrize. {NO_LOOKAHEAD}")


@functools.lru_cache(maxsize=256)
def fresh_steps_far(optimizer: optax.GradientTransformation) -> bool:
    """Whether a weight with fresh moments steps far beyond all others, because the count is past its own guard.

    Tried out on four weights: after some steps one gets the moments of a weight that was never trained, as a grown
    weight has them, and its next step is compared with the others'.

    Args:
      optimizer: any; where it needs more than gradients and parameters, nothing can be tried and the answer is no.

    Returns:
      True for optimizers such as `optax.contrib.acprop`.
    """
    draw = np.random.default_rng(0)
    params = {"w": np.ones((2, 2), np.float32)}
    keep = {"w": np.array([[True, True], [True, False]])}
    try:
        with jax.ensure_compile_time_eval():
            state = optimizer.init(params)
            for _ in range(4):
                grads = {"w": jnp.asarray(draw.normal(size=(2, 2)), jnp.float32)}
                _, state = optimizer.update(grads, state, params)
            state = reset_off_mask(optimizer, state, jax.tree.map(jnp.asarray, keep), params)
            _, state = optimizer.update({"w": jnp.asarray(keep["w"], jnp.float32)}, state, params)
            updates, _ = optimizer.update({"w": jnp.ones((2, 2))}, state, params)
            steps = np.abs(np.asarray(updates["w"], np.float64))
    except Exception:  # whatever a stranger's optimizer needs besides: it is only tried out here
        return False
    return bool(steps[0].max() > 0 and not steps[1, 1] <= _FAR * max(steps[0].max(), steps[1, 0]))
