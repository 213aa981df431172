"""Mask trees: which leaves get a mask, how masks are chosen, applied, packed, measured and summarized."""

from sparsejax.masks.adapters import merge_lora as merge_lora
from sparsejax.masks.mask_trees import apply_masks as apply_masks
from sparsejax.masks.mask_trees import validate as validate
from sparsejax.masks.metrics import density as density
from sparsejax.masks.metrics import jaccard as jaccard
from sparsejax.masks.metrics import layer_densities as layer_densities
from sparsejax.masks.metrics import sparsity as sparsity
from sparsejax.masks.packed import pack_tree as pack_tree
from sparsejax.masks.packed import unpack_tree as unpack_tree
from sparsejax.masks.prunable import Layer as Layer
from sparsejax.masks.prunable import Override as Override
from sparsejax.masks.prunable import dense as dense
from sparsejax.masks.prunable import prunable_layers as prunable_layers
from sparsejax.masks.summary import LayerSummary as LayerSummary
from sparsejax.masks.summary import Summary as Summary
from sparsejax.masks.summary import summarize as summarize
from sparsejax.params.default_filter import default_prunable as default_prunable
