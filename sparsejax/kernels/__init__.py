"""Sparse compute that pays: block-sparse matrices in training, and packed forms for inference."""

from sparsejax.kernels.block_scores import block_grad_scores as block_grad_scores
from sparsejax.kernels.block_scores import with_probes as with_probes
from sparsejax.kernels.block_sparse import BlockSparse as BlockSparse
from sparsejax.kernels.block_sparse import block_mask as block_mask
from sparsejax.kernels.block_sparse import check_capacity as check_capacity
from sparsejax.kernels.block_sparse import from_dense as from_dense
from sparsejax.kernels.block_sparse import rewire as rewire
from sparsejax.kernels.block_sparse import to_dense as to_dense
from sparsejax.kernels.block_sparse import with_capacity as with_capacity
from sparsejax.kernels.block_view import compress as compress
from sparsejax.kernels.block_view import decompress as decompress
from sparsejax.kernels.block_view import weight_masks as weight_masks
from sparsejax.kernels.compressed import CompressedState as CompressedState
from sparsejax.kernels.compressed import CompressedTransformation as CompressedTransformation
from sparsejax.kernels.compressed import first_capacities as first_capacities
from sparsejax.kernels.compressed import start as start
from sparsejax.kernels.compressed import train_compressed as train_compressed
from sparsejax.kernels.products import matmul as matmul
