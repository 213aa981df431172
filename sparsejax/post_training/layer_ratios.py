"""How sparse each layer shall be: OWL's outlier rule, and how much the result suffers from each layer alone."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import CalibrationError, PathError, SparsityError
from sparsejax.masks.prunable import Layer, Override
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_callable, require_kind
from sparsejax.params.kept_count import check_sparsity, kept_count
from sparsejax.params.paths import flatten_with_paths, literal
from sparsejax.patterns.n_of_m import NM
from sparsejax.patterns.pattern import Unstructured
from sparsejax.post_training.chosen_layers import layers_in_order, list_of_batches
from sparsejax.post_training.gram import all_finite
from sparsejax.scores.activations import wanda
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.calibration.statistics import calibrate
from sparsejax.typing import Array, Params, Prunable

#: A sparsity, or n of m.
Candidate = float | NM


def owl(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    sparsity: float,
    outlier: float = 5.0,
    spread: float = 0.08,
    group: Callable[[str], str] | None = None,
    prunable: Prunable | None = None,
    ignore: Iterable[str] = (),
) -> dict[str, float]:
    """Gives layers with many outlying weights more of the weights that may stay.

    With Wanda's score ``A_ij = |W_ij| ‖X_j‖₂`` the outlier ratio of a layer is the share of its scores above
    `outlier` times their mean, D. Its density is ``1 − s + 2λ (D − min D)/(max D − min D)`` less the mean of the last
    term over layers, so that all lie within 2λ of each other.

    Args:
      fn: ``fn(params, *inputs)``.
      params: dense.
      batches: tuples of inputs, run once.
      sparsity: s, of all layers together, by weights.
      outlier: M, the paper's 5 (or 3, 7, 10).
      spread: λ, the paper's 0.08.
      group: ``path -> name``: layers of one name, such as those of a transformer block, are one layer to the rule, as
        in the paper. Each alone when None.
      prunable: as `prune_model` takes it.
      ignore: likewise.

    Returns:
      ``{path pattern: sparsity}`` for `prune_model`'s `sparsity`, or `distributions.by_path`. The means are by weights
      (the paper's are over blocks of one size), so that s is met; sparsities are cut to [0, 1] where they leave it.

    Raises:
      SparsityError: not one number in [0, 1].
      CalibrationError: a spread or an outlier factor that is not positive and finite; no batch, an empty one, or
        inputs that are not finite, with the layer's path.

    Source: Yin et al., "Outlier Weighed Layerwise Sparsity (OWL)", arXiv 2310.05175, section 3.2.
    """
    _check_share(sparsity)
    require_numbers(CalibrationError, above=True, outlier=outlier, spread=spread)
    if group is not None:
        require_callable(group, "group", "path -> name", CalibrationError)
    layers, scores = _scored(fn, params, batches, prunable, ignore)
    name = group or (lambda path: path)
    above: dict[str, list[float]] = {}
    for layer in layers:
        own = scores[layer.index]
        count = float(jnp.sum(own > outlier * jnp.mean(own)))
        total = above.setdefault(name(layer.path), [0.0, 0.0])
        total[0], total[1] = total[0] + count, total[1] + own.size
    ratio = {key: count / size for key, (count, size) in above.items()}
    low, high = min(ratio.values()), max(ratio.values())
    lift = {key: 2 * spread * (d - low) / (high - low) if high > low else 0.0 for key, d in ratio.items()}
    weights = np.array([scores[layer.index].size for layer in layers], np.float64)
    density = np.array([lift[name(layer.path)] for layer in layers])
    return {
        literal(layer.path): float(1 - d)
        for layer, d in zip(layers, _shifted(density, weights, 1 - sparsity), strict=True)
    }


def _check_share(sparsity: float) -> None:
    check_sparsity(sparsity, "sparsity")
    if np.ndim(sparsity):
        raise SparsityError(f"sparsity is {sparsity!r}; all layers together take one number.")


def _shifted(density: np.ndarray, weights: np.ndarray, mean: float) -> np.ndarray:
    """Shifts densities by one number so that their mean is met after they are cut to [0, 1]."""
    low, high = -density.max(), 1 - density.min()
    for _ in range(60):
        shift = (low + high) / 2
        reached = np.average(np.clip(density + shift, 0, 1), weights=weights)
        low, high = (shift, high) if reached < mean else (low, shift)
    return np.clip(density + high, 0, 1)


def sensitivity(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    candidates: Sequence[Candidate] = (0.5, 0.6, 0.7, 0.8, 0.9),
    prunable: Prunable | None = None,
    ignore: Iterable[str] = (),
) -> dict[str, np.ndarray]:
    """How much the result changes when one layer alone is pruned, for every layer and candidate.

    ``‖fn(θ, x) − fn(θ with one layer on its mask, x)‖² / ‖fn(θ, x)‖²`` over all floating results, with Wanda's scores
    compared over the layer. All candidates of a layer are one program.

    Args:
      fn: ``fn(params, *inputs)``.
      params: dense.
      batches: tuples of inputs; kept, and run once a layer for all candidates.
      candidates: sparsities or `NM` patterns.
      prunable: as `prune_model` takes it.
      ignore: likewise.

    Returns:
      ``{path: (candidates,)}``.

    Raises:
      CalibrationError: no batch, an empty one, or no floating results; inputs or results that are not finite, with
        the layer's path.
      SparsityError, PatternError: candidates that do not fit, or none.
    """
    batches = list_of_batches(batches)
    candidates = _listed(candidates)
    layers, scores = _scored(fn, params, batches, prunable, ignore)
    _, leaves, treedef = flatten_with_paths(params)
    found = {}
    for layer in layers:
        masks = jnp.stack([_mask(layer, scores[layer.index], candidate) for candidate in candidates])
        run = jax.jit(_damage(fn, leaves, treedef, layer.index))
        sums = [run(masks, jaxprs.as_tuple(batch)) for batch in batches]
        error, size = (np.sum([np.asarray(s[i], np.float64) for s in sums], axis=0) for i in (0, 1))
        if not np.all(np.isfinite(error)):
            raise CalibrationError(f"{layer.path!r}: the results of the function are not finite.")
        found[layer.path] = error / max(float(size), np.finfo(np.float64).tiny)
    return found


def _listed(candidates: Iterable[Candidate]) -> list[Candidate]:
    require_kind(candidates, Iterable, "candidates", "(0.5, 0.7, 0.9)", SparsityError)
    found = list(candidates)
    if not found:
        raise SparsityError("There is no candidate; give sparsities or NM patterns.")
    return found


def _damage(fn: Callable[..., Any], leaves: list[Array], treedef: Any, index: int) -> Callable[..., Any]:
    def damage(masks: Array, inputs: tuple[Any, ...]) -> tuple[Array, Array]:
        aim = _floating(fn(jax.tree.unflatten(treedef, leaves), *inputs))

        def one(mask: Array) -> Array:
            pruned = [*leaves[:index], jnp.where(mask, leaves[index], 0), *leaves[index + 1 :]]
            now = _floating(fn(jax.tree.unflatten(treedef, pruned), *inputs))
            return sum(jnp.sum((a - b) ** 2) for a, b in zip(aim, now, strict=True))

        return jax.vmap(one)(masks), sum(jnp.sum(a**2) for a in aim)

    return damage


def _floating(results: Any) -> list[Array]:
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(results)]
    floating = [leaf.astype(jnp.float32) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if not floating:
        raise CalibrationError("The function gives no floating result, so nothing says how much it changes.")
    return floating


def _scored(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    prunable: Prunable | None,
    ignore: Iterable[str],
) -> tuple[list[Layer], list[Array]]:
    """The layers to prune and Wanda's scores of all leaves."""
    batches = list_of_batches(batches)
    if not batches:
        raise CalibrationError("There is no batch. Pass an iterable of inputs that is not used up.")
    layers = layers_in_order(fn, params, batches[0], None, prunable, None, ignore)
    names = [literal(layer.path) for layer in layers]
    statistics = calibrate(fn, params, batches, collect="norm", layers=names)
    roles = {layer.path: layer.axes for layer in layers}
    leaves = flatten_with_paths(params)[1]
    own = {layer.path: leaves[layer.index] for layer in layers}
    scores = wanda(statistics, roles=roles).value((), own, None, None)
    found = [None] * len(leaves)
    for layer in layers:
        found[layer.index] = scores[layer.path]
        if not bool(all_finite(found[layer.index])):
            raise CalibrationError(
                f"{layer.path!r}: its weights or the norms of its inputs are not finite. Look for overflow in the "
                "parameters or in the activations of the batches."
            )
    return layers, found


def _mask(layer: Layer, scores: Array, candidate: Candidate) -> Array:
    pattern = candidate if isinstance(candidate, NM) else Unstructured()
    pattern.check(layer.path, layer.shape, layer.axes)
    share = 1 - pattern.fixed_density if isinstance(candidate, NM) else candidate
    check_sparsity(share, f"candidate of {layer.path!r}")
    units = pattern.pool(scores, layer.axes)
    kept = kept_count(pattern.units(layer.shape, layer.axes), share)
    return pattern.expand(pattern.select(units, kept, layer.axes), layer.shape, layer.axes)


def choose_by_sensitivity(
    curves: Mapping[str, Sequence[float]],
    params: Params,
    *,
    sparsity: float,
    candidates: Sequence[Candidate] = (0.5, 0.6, 0.7, 0.8, 0.9),
) -> dict[str, Override]:
    """Chooses a candidate for each layer so that the summed changes are least at a sparsity of all together.

    Greedy: from the least sparse candidates on, the step that costs least for each weight it removes, until enough are
    gone. A step may skip candidates that lie above the chord.

    Args:
      curves: of `sensitivity`.
      params: for the layers' sizes.
      sparsity: to be reached by all layers of `curves` together, by weights.
      candidates: those of `sensitivity`, rising in sparsity.

    Returns:
      ``{path: Override}`` for `prune_model`'s `overrides`; with `NM` candidates a pattern of its own for each layer.

    Raises:
      SparsityError: candidates that do not rise, or of which even the sparsest are not enough; a sparsity that is not
        one number in [0, 1].
      CalibrationError: curves that are not finite, or not of one number for each candidate.
      PathError: curves of what is no parameter.
    """
    _check_share(sparsity)
    candidates = _listed(candidates)
    share = [1 - c.n / c.m if isinstance(c, NM) else c for c in candidates]
    for place, one in enumerate(share):
        check_sparsity(one, f"candidates[{place}]")
    if any(b <= a for a, b in itertools.pairwise(share)):
        raise SparsityError(f"candidates {candidates!r} must rise in sparsity.")
    if sparsity > share[-1]:
        raise SparsityError(f"sparsity {sparsity!r} is more than the sparsest candidate, {share[-1]:g}.")
    paths, leaves, _ = flatten_with_paths(params)
    size = {path: np.size(leaf) for path, leaf in zip(paths, leaves, strict=True) if path in curves}
    for path, curve in curves.items():
        if path not in size:
            raise PathError(f"curves: {path!r} is no parameter; there are: {', '.join(paths[:12])}.")
        if np.shape(curve) != (len(share),) or not np.all(np.isfinite(curve)):
            raise CalibrationError(
                f"curves: that of {path!r} is {curve!r}; it needs a finite number for each of {len(share)} candidates."
            )
    chosen = dict.fromkeys(curves, 0)
    removed = sum(size[path] * share[0] for path in curves)
    goal = sparsity * sum(size.values())

    def price(path: str, to: int) -> float:
        now, curve = chosen[path], curves[path]
        return (curve[to] - curve[now]) / (size[path] * (share[to] - share[now]))

    while removed < goal - 1e-9:
        steps = [(p, to) for p in curves for to in range(chosen[p] + 1, len(share))]
        path, to = min(steps, key=lambda step: price(*step))
        removed += size[path] * (share[to] - share[chosen[path]])
        chosen[path] = to
    picked = {path: candidates[place] for path, place in chosen.items()}
    return {
        literal(path): Override(pattern=c) if isinstance(c, NM) else Override(sparsity=float(c))
        for path, c in picked.items()
    }
