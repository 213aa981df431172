"""Exact selection of the best scores without sorting, by counting, on one device and on many."""

from sparsejax.selection.top_k import top_k_mask as top_k_mask
