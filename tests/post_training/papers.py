"""What the papers' equations say, in plain NumPy, one weight at a time; and problems to try them on."""

import itertools

import numpy as np


def problem(outputs=12, inputs=32, rows=800, seed=0, falling=0.0, noise=1.0):
    """Weights and the Gram matrix of correlated inputs with a scale of their own each; energy falls along columns.

    Half as many factors as inputs, and noise: at 1 three per cent of the variance, at 3 a fifth.
    """
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(inputs // 2, inputs))
    x = rng.normal(size=(rows, inputs // 2)) @ mixing + noise * rng.normal(size=(rows, inputs))
    x *= np.exp(0.5 * rng.normal(size=inputs) - falling * np.arange(inputs) / inputs)
    return rng.normal(size=(outputs, inputs)), x.T @ x / rows


def error(weights, pruned, gram):
    change = np.asarray(weights, np.float64) - np.asarray(pruned, np.float64)
    return np.trace(change @ gram @ change.T)


def ridge(gram, damping=0.01):
    return gram + damping * np.mean(np.diag(gram)) * np.eye(len(gram))


def lowest_removed(scores, count):
    """True but for the `count` lowest scores; of equal ones the last is removed."""
    flat = scores.ravel()
    order = sorted(range(flat.size), key=lambda i: (flat[i], -i))
    mask = np.ones(flat.size, bool)
    mask[order[:count]] = False
    return mask.reshape(scores.shape)


def wanda(weights, gram, sparsity):
    scores = np.abs(weights) * np.sqrt(np.diag(gram))
    return np.stack([lowest_removed(row, int(len(row) * sparsity)) for row in scores])


def wanda_of_groups(weights, gram, n, m):
    scores = np.abs(weights) * np.sqrt(np.diag(gram))
    mask = np.zeros(weights.shape, bool)
    for row in range(len(weights)):
        for first in range(0, weights.shape[1], m):
            mask[row, first + np.argsort(-scores[row, first : first + m])[:n]] = True
    return mask


def sparsegpt(weights, gram, removed, block=128, n_of_m=None):
    """Algorithm 1: `removed(weights of a block)` counts what goes; the inverse's rows by explicit elimination."""
    w, d = weights.astype(np.float64).copy(), weights.shape[1]
    mask = np.ones(w.shape, bool)
    inverse = np.linalg.inv(gram)
    # Removing columns left to right: H_F⁻¹ of the columns from j on, by Gaussian elimination (equation 4).
    rows = np.zeros((d, d))
    for j in range(d):
        rows[j, j:] = inverse[j, j:] / np.sqrt(inverse[j, j])
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    for first in range(0, d, block):
        here = slice(first, min(first + block, d))
        if n_of_m is None:
            scores = w[:, here] ** 2 / np.diag(rows)[here] ** 2
            mask[:, here] = lowest_removed(scores, removed(scores))
        for j in range(here.start, here.stop):
            if n_of_m is not None and j % n_of_m[1] == 0:
                n, m = n_of_m
                scores = w[:, j : j + m] ** 2 / np.diag(rows)[j : j + m] ** 2
                mask[:, j : j + m] = np.stack([lowest_removed(row, m - n) for row in scores])
            e = np.where(mask[:, j], 0, w[:, j]) / rows[j, j]
            w[:, j:] -= np.outer(e, rows[j, j:])
            w[~mask[:, j], j] = 0
    return w, mask


def least_squares(weights, gram, mask):
    """The kept weights of each row by a solve of its own."""
    solved = np.zeros(weights.shape)
    for row, (w, kept) in enumerate(zip(weights, mask, strict=True)):
        places = np.flatnonzero(kept)
        solved[row, places] = np.linalg.solve(gram[np.ix_(places, places)], (gram @ w)[places])
    return solved


def best_of_all_masks(weights, gram, kept):
    """The least error of one row over all masks with `kept` weights and all values of those."""
    return min(
        error(weights, least_squares(weights, gram, mask), gram)
        for mask in (
            np.isin(np.arange(weights.shape[1]), chosen)[None]
            for chosen in itertools.combinations(range(weights.shape[1]), kept)
        )
    )


def best_swap(w, mask, gram, allowed):
    """The least error of one row after any allowed exchange."""
    least = np.inf
    for gone, back in itertools.product(np.flatnonzero(mask), np.flatnonzero(~mask)):
        if allowed(gone, back):
            other = mask.copy()
            other[[gone, back]] = False, True
            least = min(least, error(w[None], np.where(other, w, 0)[None], gram))
    return least
