"""The optax transformations `sparsify` and `reparametrize`, and what they keep in an optimizer's state."""

from sparsejax.transforms.reparametrize import ReparametrizeState as ReparametrizeState
from sparsejax.transforms.saving import restore_state as restore_state
from sparsejax.transforms.saving import state_arrays as state_arrays
from sparsejax.transforms.sparse_transformation import SparseTransformation as SparseTransformation
from sparsejax.transforms.sparsify import SparsifyState as SparsifyState
