"""Sums over rows that add up: from one use, from the rounds of a scan, from batch to batch."""

from typing import Any

import jax
import jax.numpy as jnp

#: quantity -> array with leading stacked axes; always with the row count.
Moments = dict[str, jax.Array]


def row_moments(rows: jax.Array, collect: frozenset[str], percentile: float = 100.0) -> Moments:
    """The moments of (stacked…, rows, features): count, and what is asked for."""
    count = jnp.full(rows.shape[:-2], rows.shape[-2], rows.dtype)
    found: Moments = {"count": count}
    if "gram" in collect:
        found["gram"] = jnp.einsum("...ri,...rj->...ij", rows, rows, precision=jax.lax.Precision.HIGHEST)
    if "norm" in collect:
        found["squares"] = jnp.sum(rows * rows, -2)
    if "mean_abs" in collect:
        found["absolute"] = jnp.sum(jnp.abs(rows), -2)
    if "variance" in collect:
        found["mean"] = jnp.mean(rows, -2)
        found["deviations"] = jnp.sum((rows - found["mean"][..., None, :]) ** 2, -2)
    if "percentile" in collect:
        sizes = jnp.percentile(jnp.abs(rows), percentile, axis=(-2, -1)) if rows.size else 0
        finite = jnp.all(jnp.isfinite(rows), (-2, -1))
        found["percentile"] = jnp.where(finite, sizes, jnp.nan).astype(rows.dtype)
    return found


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of the rows of both.

    Sums add; of percentiles the larger stands; means and squared deviations combine so that no large numbers
    cancel (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
    1979, equations 2.1).
    """
    total = a["count"] + b["count"]
    merged = {name: a[name] + b[name] for name in a if name not in ("mean", "deviations", "percentile")}
    if "percentile" in a:
        merged["percentile"] = jnp.maximum(a["percentile"], b["percentile"])  # NaN where either is
    if "mean" in a:
        share = (b["count"] / jnp.maximum(total, 1))[..., None]
        apart = b["mean"] - a["mean"]
        merged["mean"] = a["mean"] + apart * share
        merged["deviations"] = a["deviations"] + b["deviations"] + apart**2 * a["count"][..., None] * share
    return merged


def zeros_like(moments: Any) -> Any:
    """The moments of no rows, from arrays or shapes."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), moments)
