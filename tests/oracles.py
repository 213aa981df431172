"""What the papers say, written once more in plain NumPy and Python, without a line of the library."""

import math
from fractions import Fraction

import numpy as np


def keep_best(scores, count, candidates=None):
    """The `count` highest scores among the candidates, ties to the lowest flat index, by a full sort."""
    flat = np.asarray(scores, np.float64).ravel()
    allowed = range(flat.size) if candidates is None else np.flatnonzero(np.asarray(candidates).ravel())
    order = sorted(allowed, key=lambda i: (-flat[i], i))
    mask = np.zeros(flat.size, bool)
    mask[order[: int(count)]] = True
    return mask.reshape(np.shape(scores))


def keep_best_of_all(scores, count):
    """The `count` highest scores of several arrays together, ties to the first array, the lowest index."""
    entries = [(-value, a, i) for a, array in enumerate(scores) for i, value in enumerate(np.ravel(array))]
    masks = [np.zeros(np.size(array), bool) for array in scores]
    for _, a, i in sorted(entries)[: int(count)]:
        masks[a][i] = True
    return [mask.reshape(np.shape(array)) for mask, array in zip(masks, scores, strict=True)]


def kept_count(size, sparsity):
    """round((1 − s)·n) of the number that the float is, halves to even."""
    return round((1 - Fraction(float(sparsity))) * size)


def cubic(step, begin, end, initial, final):
    """Zhu & Gupta 2017, equation 1."""
    past = min(max(step, begin), end) - begin
    return final + (initial - final) * (1 - past / (end - begin)) ** 3


def erdos_renyi_densities(dims, sparsity):
    """Evci et al. 2020, section 3: solve for ε, make the worst offender dense, solve again."""
    sizes = [math.prod(d) for d in dims]
    raw = [sum(d) / math.prod(d) for d in dims]
    dense = set()
    while len(dense) < len(dims):
        budget = (1 - sparsity) * sum(sizes) - sum(sizes[i] for i in dense)
        epsilon = budget / sum(raw[i] * sizes[i] for i in range(len(dims)) if i not in dense)
        worst = max((i for i in range(len(dims)) if i not in dense), key=lambda i: raw[i])
        if epsilon * raw[worst] <= 1:
            return [1.0 if i in dense else epsilon * raw[i] for i in range(len(dims))]
        dense.add(worst)
    return [1.0] * len(dims)


def cosine_fraction(step, alpha, end):
    """Evci et al. 2020, section 3 (3)."""
    return alpha / 2 * (1 + math.cos(math.pi * step / end))


def drop(weights, active, fraction):
    """The active weights that outlive a drop of int(f·n_active) of the smallest, and that number."""
    count = int(active.sum())
    dropped = int(fraction * count)
    return keep_best(np.abs(weights), count - dropped, active), dropped


def rigl_step(weights, grads, active, fraction):
    """RigL's exchange: the grown are the best of all that are not kept, the dropped among them."""
    kept, count = drop(weights, active, fraction)
    return kept | keep_best(np.abs(grads), count, ~kept)


def lamp(weights):
    """Lee et al. 2021, equation 4, by its definition: sort upwards, divide by what is left."""
    flat = np.asarray(weights, np.float64).ravel() ** 2
    # Of equal weights the later index comes first when sorted upwards, so that the earlier one survives it.
    order = sorted(range(flat.size), key=lambda i: (flat[i], -i))
    scores = np.zeros(flat.size)
    for position, i in enumerate(order):
        rest = sum(flat[j] for j in order[position:])
        scores[i] = flat[i] / rest if rest else 0.0
    return scores.reshape(np.shape(weights))


def n_of_m(scores, n, m):
    """The n best of every m consecutive rows in each column of a matrix (in, out)."""
    scores = np.asarray(scores, np.float64)
    mask = np.zeros(scores.shape, bool)
    for column in range(scores.shape[1]):
        for first in range(0, scores.shape[0], m):
            group = range(first, first + m)
            for row in sorted(group, key=lambda r: (-scores[r, column], r))[:n]:
                mask[row, column] = True
    return mask
