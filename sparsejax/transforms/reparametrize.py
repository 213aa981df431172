"""reparametrize: trains latents and gates behind the parameters, which stay the effective ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax.errors import ParamsError
from sparsejax.masks.mask_trees import apply_masks
from sparsejax.params.check_values import require_array_leaves, require_kind, require_optimizer
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.schedules import EVERY_STEP
from sparsejax.transforms.handed_out import latents_of
from sparsejax.transforms.inner_optimizers import refuse_lookahead
from sparsejax.transforms.method import Method, Named
from sparsejax.transforms.parametrization import Aux, Parametrization, masks_of
from sparsejax.transforms.rng import split_key, step_key
from sparsejax.transforms.saving import tell_flax
from sparsejax.transforms.sparse_transformation import SparseTransformation
from sparsejax.typing import Array, ArrayLike, MaskTree, Params

_INIT = 2**32 - 1  # folded into the key for `Parametrization.init`; steps fold their own number in


class ReparametrizeState(NamedTuple):
    """The state of `reparametrize`.

    Attributes:
      count: int32 scalar, steps taken.
      key: the random key's data (uint32), or an empty tuple where there is none.
      latents: like the parameters, float32 (float64 where they are).
      aux: what the parametrization has besides them, for the next forward pass.
      inner_state: the optimizer's, of the latents.
      aux_state: the second optimizer's; an empty tuple where it has nothing to train.
      method: the functions, no arrays.
    """

    count: Array
    key: Any
    latents: Params
    aux: Aux
    inner_state: Any
    aux_state: Any
    method: Method


def reparametrize(
    optimizer: optax.GradientTransformation,
    parametrization: Parametrization,
    *,
    aux_optimizer: optax.GradientTransformation | None = None,
    key: Array | None = None,
) -> SparseTransformation:
    """Trains latents W and auxiliaries a, while the parameters that the model sees are W' = f(W, a, ε).

    ``(g_W, g_a) = ∂f/∂(W, a)ᵀ·∂L/∂W' + ∂R/∂(W, a)``; W and a take their optimizers' steps; then
    ``u' = f(W, a, ε') − p``, so that p + u' is the next step's W'

    The gradient is pulled back with the noise ε that the forward pass saw: it is drawn from the key and the
    number of steps taken, nothing of it is stored. It is what differentiating a loss with the parametrization
    inside gives. Updates are float32 (float64 where the parameters are), since bfloat16 ones lose small
    weights; a parameter lands within one ulp of max(|p|, |W'|), and exactly on zero. `finalize` gives the
    hard-masked values. Latents of bfloat16 parameters are float32, those of parameters that the method leaves
    alone too.

    Put it outermost, as `sparsify`, and start with ``params, opt_state = sparsejax.init(tx, params)``. An
    `nnx.Optimizer` may be made before those effective parameters are put in the model or after: what `init` returned
    is known, by the arrays themselves, and the latents beneath are found again.
    Of optax's wrappers the same may stand outside as of `sparsify`; `apply_if_finite` only where parameters are
    float32, since its branches then have one type: inside it serves all.

    ``update(grads, state, params, *, step=None, **extra)``: `step` overrides the state's count for schedules
    and for whether masks are due (unbatched, conds stay conds under vmap); the rest goes to `optimizer`.

    Args:
      optimizer: trains the latents. Clipping by global norm inside sees the latents' gradients alone.
      parametrization: the method.
      aux_optimizer: trains its auxiliaries; like `optimizer` when None.
      key: a jax random key, for methods that draw.

    Returns:
      The optax transformation. Any of its steps may change the masks, and the gradient of all latents is read.

    Raises:
      RandomKeyError: `key` is no jax random key, or missing where the method draws.
      WrapperError: `optax.lookahead` inside.
      ParamsError: an optimizer or a parametrization that is none; parameters with leaves that are no arrays;
        `update` without params.

    Example:
      >>> import jax, jax.numpy as jnp, optax, sparsejax
      >>> tx = reparametrize(optax.sgd(1.0), sparsejax.parametrizations.straight_through(0.5))
      >>> params, state = sparsejax.init(tx, {"w": jnp.array([[3.0, 2.0]])})
      >>> params["w"].tolist()
      [[3.0, 0.0]]
      >>> updates, state = tx.update({"w": jnp.array([[2.0, 0.0]])}, state, params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [[0.0, 2.0]]
    """
    require_optimizer(optimizer)
    require_kind(
        parametrization,
        Parametrization,
        "parametrization",
        "parametrizations.straight_through(0.9)",
        ParamsError,
    )
    if aux_optimizer is not None:
        require_optimizer(aux_optimizer, "the optimizer of scores or gates")
    inner = optax.with_extra_args_support(optimizer)
    second = aux_optimizer or optimizer
    named = Named(parametrization)
    key_data, impl = split_key(key)

    def init_fn(params: Params) -> ReparametrizeState:
        require_array_leaves(params)
        tell_flax()
        given, params = params, latents_of(params, parametrization)
        # Copies, so that donating the parameters or the key never deletes the state's.
        latents = jax.tree.map(lambda p: jnp.array(p, dtype=_wide(p.dtype), copy=True), params)
        aux = parametrization.init(latents, step_key(key_data, impl, jnp.uint32(_INIT)))
        aux = parametrization.advance(latents, aux, 0)
        dtypes = tuple(leaf.dtype for leaf in jax.tree.leaves(given))
        inner_state = inner.init(latents)
        refuse_lookahead(inner_state)
        return ReparametrizeState(
            count=jnp.zeros((), jnp.int32),
            key=jax.tree.map(jnp.copy, key_data),
            latents=latents,
            aux=aux,
            inner_state=inner_state,
            aux_state=second.init(aux.trained) if jax.tree.leaves(aux.trained) else (),
            method=Method(named, named.name, named.mark, dtypes, impl),
        )

    def update_fn(
        grads: Params,
        state: ReparametrizeState,
        params: Params | None = None,
        *,
        step: ArrayLike | None = None,
        **extra: Any,
    ) -> tuple[Params, ReparametrizeState]:
        if params is None:
            raise ParamsError("reparametrize needs the parameters: call tx.update(grads, state, params).")
        require_kind(
            state, ReparametrizeState, "the state", "what sparsejax.init(tx, params) returned", ParamsError
        )
        state.method.require(named)
        latents, aux = state.latents, state.aux
        noise = step_key(state.key, impl, state.count)
        latent_grads, aux_grads = pull_back(parametrization, latents, aux, noise, grads)
        updates, inner_state = inner.update(latent_grads, state.inner_state, latents, **extra)
        latents = optax.apply_updates(latents, updates)
        aux_state, trained = state.aux_state, aux.trained
        if jax.tree.leaves(trained):
            updates, aux_state = second.update(aux_grads, aux_state, trained)
            trained = optax.apply_updates(trained, updates)
        count = optax.safe_increment(state.count)
        due = count if step is None else step + 1
        aux = parametrization.advance(latents, aux._replace(trained=trained), due)
        effective = parametrization.apply(latents, aux, step_key(state.key, impl, count))
        landing = jax.tree.map(lambda new, p: new - p.astype(new.dtype), effective, params)
        return landing, state._replace(
            count=count, latents=latents, aux=aux, inner_state=inner_state, aux_state=aux_state
        )

    return SparseTransformation(init_fn, update_fn, EVERY_STEP, reads_gradient=True)


def pull_back(
    parametrization: Parametrization, latents: Params, aux: Aux, key: Array | None, grads: Params
) -> tuple[Params, Any]:
    """The gradients of latents and auxiliaries, penalty included.

    Args:
      parametrization: the method.
      latents: its latents.
      aux: its auxiliaries.
      key: of the noise that the forward pass saw.
      grads: with respect to the effective parameters.

    Returns:
      ``(latent gradients, auxiliary gradients)``.
    """

    def forward(latents: Params, trained: Any) -> tuple[Params, Array]:
        here = aux._replace(trained=trained)
        return parametrization.apply(latents, here, key), parametrization.penalty(latents, here)

    (effective, penalty), pull = jax.vjp(forward, latents, aux.trained)
    wide = jax.tree.map(lambda g, e: g.astype(e.dtype), grads, effective)
    return pull((wide, jnp.ones_like(penalty)))


def effective_params(state: ReparametrizeState) -> Params:
    """What the model sees at the state's next forward pass, noise included."""
    method = state.method
    key = step_key(state.key, method.impl, state.count)
    return _narrow(method.parametrization.apply(state.latents, state.aux, key), method.dtypes)


def evaluated_params(state: ReparametrizeState) -> Params:
    """The deterministic effective parameters."""
    method = state.method
    return _narrow(method.parametrization.apply(state.latents, state.aux, None), method.dtypes)


def hard_masks(state: ReparametrizeState) -> MaskTree:
    """The masks in force; of gates, those that evaluation would decide."""
    return masks_of(state.method.parametrization, state.latents, state.aux)


def finalized(state: ReparametrizeState) -> tuple[Params, MaskTree]:
    """The settled, deterministic effective parameters on the hard masks, and those."""
    aux = state.method.parametrization.settle(state.latents, state.aux)
    state = state._replace(aux=aux)
    masks = hard_masks(state)
    return apply_masks(evaluated_params(state), masks), masks


def _wide(dtype: Any) -> Any:
    """At least float32; what is no float stays as it is."""
    return jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype


def _narrow(values: Params, dtypes: tuple[Any, ...]) -> Params:
    _, leaves, treedef = flatten_with_paths(values)
    each = iter(dtypes)
    return jax.tree.unflatten(
        treedef, [leaf if is_masked_node(leaf) else leaf.astype(next(each)) for leaf in leaves]
    )
