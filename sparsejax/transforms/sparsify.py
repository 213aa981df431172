"""sparsify: any optax optimizer, with parameters that are exactly zero off their masks after every step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax.errors import ParamsError, ScheduleError
from sparsejax.masks.mask_trees import apply_masks
from sparsejax.masks.packed import PackedTree, pack_tree, unpack_tree
from sparsejax.params.check_values import require_array_leaves, require_kind, require_optimizer
from sparsejax.params.kept_count import is_concrete
from sparsejax.params.paths import map_with_path
from sparsejax.transforms.inner_optimizers import fresh_steps_far, refuse_lookahead
from sparsejax.transforms.mask_rule import MaskRule
from sparsejax.transforms.reset_moments import reset_off_mask
from sparsejax.transforms.rng import split_key, step_key
from sparsejax.transforms.saving import tell_flax
from sparsejax.transforms.sparse_transformation import SparseTransformation
from sparsejax.typing import Array, ArrayLike, MaskTree, Params


class SparsifyState(NamedTuple):
    """The state of `sparsify`.

    Attributes:
      count: int32 scalar, steps taken.
      key: the random key's data (uint32), or an empty tuple where there is none.
      masks: a `PackedTree` of masks like the parameters; `get_masks` unpacks it.
      rule_state: the rule's own.
      inner_state: the inner optimizer's.
    """

    count: Array
    key: Any
    masks: PackedTree
    rule_state: Any
    inner_state: Any


def sparsify(
    optimizer: optax.GradientTransformation,
    rule: MaskRule,
    *,
    key: Array | None = None,
    second_moment: str = "zero",
) -> SparseTransformation:
    """Trains on masks: the parameters that the model sees are always the effective ones.

    ``u' = where(M, u, −p)``, so that p + u' is exactly 0 off the mask M, for finite p of any float type

    The inner optimizer sees masked gradients and advances at every step. When masks are due the rule
    decides from the dense gradients and the present weights; weights that grow start at zero with fresh
    moments (those that one zero gradient makes of `optimizer.init`'s: the same for most of optax's
    optimizers, not for rmsprop with an initial scale, yogi or adabelief). Put it outermost: `clip` and
    the like go inside; of optax's wrappers only `MultiSteps`, `apply_if_finite`, `inject_hyperparams`
    and `partition` may stand outside. Start with `sparsejax.init(tx, params)`, which puts the
    parameters on their masks before the first step.

    ``update(grads, state, params, *, step=None, dense_grads_fn=None, **extra)``: `step` overrides the
    state's own count for the question whether masks are due (unbatched, it keeps one cond under vmap);
    `dense_grads_fn()` gives the dense gradients, called at mask updates only; the rest goes to the inner
    optimizer.

    Args:
      optimizer: any optax optimizer.
      rule: a `MaskRule`.
      key: random key of the rule, from `jax.random.key` or `PRNGKey`; needed by random rules.
      second_moment: what a grown weight's second moment (optax's `nu`) starts from: "zero" as in RigL,
        after which Adam's first step for it is up to (1 − β₁)/√(1 − β₂) ≈ 3.2 learning rates; or "mean",
        its layer's mean over the kept weights, after which it is at most an ordinary step. An optimizer whose step
        divides by the second moment of the step before, and guards only its own first (`acprop`), starts from the mean
        in any case.

    Returns:
      The optax transformation, which says when its masks change.

    Raises:
      RandomKeyError: `key` is no jax random key, or missing where the rule draws.
      ScheduleError: an unknown `second_moment`.
      WrapperError: `optax.lookahead` inside.
      ParamsError: an optimizer or a rule that is none; parameters with leaves that are no arrays; `update` without
        params.

    Example:
      >>> import jax.numpy as jnp, optax, sparsejax
      >>> tx = sparsify(optax.sgd(0.5), sparsejax.rules.fixed_masks({"w": jnp.array([[True, False]])}))
      >>> params, state = sparsejax.init(tx, {"w": jnp.ones((1, 2))})
      >>> updates, state = tx.update({"w": jnp.ones((1, 2))}, state, params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [[0.5, 0.0]]
    """
    require_optimizer(optimizer)
    require_kind(rule, MaskRule, "rule", "rules.fixed_masks(masks)", ParamsError)
    inner = optax.with_extra_args_support(optimizer)
    key_data, key_impl = split_key(key)
    if not isinstance(second_moment, str) or second_moment not in ("zero", "mean"):
        raise ScheduleError(f"second_moment={second_moment!r}: choose 'zero' or 'mean'.")

    def init_fn(params: Params) -> SparsifyState:
        require_array_leaves(params)
        tell_flax()
        # Copies, so that donating the state never deletes a key or masks that the caller still holds.
        masks, rule_state = jax.tree.map(jnp.copy, rule.init(params, key))
        inner_state = inner.init(apply_masks(params, masks))
        refuse_lookahead(inner_state)
        stored = pack_tree(masks)
        return SparsifyState(
            jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, key_data), stored, rule_state, inner_state
        )

    def update_fn(
        grads: Params,
        state: SparsifyState,
        params: Params | None = None,
        *,
        step: ArrayLike | None = None,
        dense_grads_fn: Any = None,
        **extra: Any,
    ) -> tuple[Params, SparsifyState]:
        if params is None:
            raise ParamsError("sparsify needs the parameters: call tx.update(grads, state, params).")
        _check_state(state)
        count = state.count if step is None else jnp.asarray(step)
        rule_state = rule.observe(grads, state.rule_state, params)
        due = jnp.asarray(False) if rule.times is None else rule.times.due(count)

        def change(masks: PackedTree, rule_state: Any) -> tuple[PackedTree, Any]:
            dense = grads if dense_grads_fn is None else dense_grads_fn()
            own_key = step_key(state.key, key_impl, count)
            new, rule_state = rule.update(dense, rule_state, unpack_tree(masks), params, count, own_key)
            return pack_tree(new, like=masks), rule_state

        old = new = state.masks
        if rule.times is not None:
            new, rule_state = _when(due, change, old, rule_state)
        # A weight that is on both masks lives on; any other is, or becomes, one that was never trained.
        keep = unpack_tree(jax.tree.map(jnp.bitwise_and, old, new))
        # Moments are reset before the inner update, not after it: the update then reads the very arrays that
        # it writes, and a donated state is updated in place. (Reset afterwards, Adam's step took 1.4 times
        # as long on CPU, copying both moments.)
        means = second_moment == "mean" or (rule.grows and fresh_steps_far(optimizer))
        warm = due if means and rule.times is not None else None
        inner_state = reset_off_mask(inner, state.inner_state, keep, _on(keep, params), warm=warm)
        updates, inner_state = inner.update(_on(keep, grads), inner_state, params, **extra)
        hold = due if rule.replaces_step and rule.times is not None else None
        updates = map_with_path(_land(hold), updates, params, keep)
        return updates, SparsifyState(
            optax.safe_increment(state.count), state.key, new, rule_state, inner_state
        )

    return SparseTransformation(init_fn, update_fn, rule.times, rule.reads_gradient, rule.replaces_step)


def _check_state(state: Any) -> None:
    """Refuses a state of another optimizer, or one whose masks were unpacked by hand."""
    require_kind(state, SparsifyState, "the state", "what sparsejax.init(tx, params) returned", ParamsError)
    if not isinstance(state.masks, PackedTree):
        raise ParamsError(
            "The masks of this state are not packed: put sparsejax.masks.pack_tree(masks) in their place."
        )


def _when(due: Array, change: Any, masks: PackedTree, rule_state: Any) -> tuple[PackedTree, Any]:
    """`change` where due. Outside jit it is a branch of Python: a cond would be compiled anew at each call."""
    if is_concrete(due):
        return change(masks, rule_state) if due else (masks, rule_state)
    return jax.lax.cond(due, change, lambda m, r: (m, r), masks, rule_state)


def _on(keep: MaskTree, values: Params) -> Params:
    """`values` where kept, else zero; leaves that are not prunable pass untouched."""

    def put(path: str, value: Array, mask: Array) -> Array:
        del path
        return value if mask.ndim == 0 else jnp.where(mask, value, jnp.zeros((), value.dtype))

    return map_with_path(put, values, keep)


def _land(hold: Array | None) -> Any:
    """The update that lands each parameter on its mask; where `hold` is true, kept weights stay put."""

    def land(path: str, update: Array, param: Array, mask: Array) -> Array:
        del path
        if hold is not None:
            update = jnp.where(hold, jnp.zeros((), update.dtype), update)
        if mask.ndim == 0:
            return update
        return jnp.where(mask, update, -param.astype(jnp.result_type(update, param)))

    return land
