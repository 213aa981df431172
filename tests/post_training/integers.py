"""What the papers on integers say, in plain NumPy: rounding, and GPTQ one column at a time."""

import numpy as np

from tests.post_training.papers import lowest_removed


def levels(bits):
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def rounded(weights, scale, zero_point, bits):
    low, high = levels(bits)
    return np.clip(np.round(weights / scale) + zero_point, low, high)


def least_error_scale(row, bits, shares):
    """The symmetric scale of least squared error of one group, among bfloat16 numbers next to share·max/high."""
    low, high = levels(bits)
    best = None
    for share in shares:
        scale = to_bfloat16(np.float32(np.max(np.abs(row))) / np.float32(high) * np.float32(share))
        error = np.sum((row - scale * np.clip(np.round(row / scale), low, high)) ** 2)
        if best is None or error < best[0]:
            best = (error, scale)
    return best[1]


def to_bfloat16(value):
    bits = int(np.float32(value).view(np.uint32))
    return np.uint32((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


def gptq(weights, gram, scale, zero_point, bits, *, mask=None, removed=None, n_of_m=None, block=128):
    """Algorithm 1 in the given order, literally; `removed` or `n_of_m` prune as SparseGPT does."""
    w, d = weights.astype(np.float64).copy(), weights.shape[1]
    scale, zero_point = np.broadcast_to(scale, w.shape), np.broadcast_to(zero_point, w.shape)
    mask = np.ones(w.shape, bool) if mask is None else mask.copy()
    q = np.zeros(w.shape)
    inverse, rows = np.linalg.inv(gram), np.zeros((d, d))
    for j in range(d):
        rows[j, j:] = inverse[j, j:] / np.sqrt(inverse[j, j])
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    for first in range(0, d, block):
        here = slice(first, min(first + block, d))
        if removed is not None:
            scores = w[:, here] ** 2 / np.diag(rows)[here] ** 2
            mask[:, here] = lowest_removed(scores, removed(scores))
        for j in range(here.start, here.stop):
            if n_of_m is not None and j % n_of_m[1] == 0:
                n, m = n_of_m
                scores = w[:, j : j + m] ** 2 / np.diag(rows)[j : j + m] ** 2
                mask[:, j : j + m] = [lowest_removed(s, m - n) for s in scores]
            steps = rounded(w[:, j], scale[:, j], zero_point[:, j], bits)
            q[:, j] = np.where(mask[:, j], steps, zero_point[:, j])
            off = (w[:, j] - scale[:, j] * (q[:, j] - zero_point[:, j])) / rows[j, j]
            w[:, j:] -= np.outer(off, rows[j, j:])
    return q, mask
