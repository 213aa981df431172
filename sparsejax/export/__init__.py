"""Files and programs that leave this library: sparse and quantized weights, and functions that run without it."""

from sparsejax.export.checkpoints import compressed_tensors as compressed_tensors
from sparsejax.export.checkpoints import save_compressed_tensors as save_compressed_tensors
from sparsejax.export.program import export_program as export_program
from sparsejax.export.sparse_file import FileSummary as FileSummary
from sparsejax.export.sparse_file import TensorSummary as TensorSummary
from sparsejax.export.sparse_file import load as load
from sparsejax.export.sparse_file import load_masks as load_masks
from sparsejax.export.sparse_file import read_tensors as read_tensors
from sparsejax.export.sparse_file import save as save
from sparsejax.export.sparse_file import summarize_file as summarize_file
