"""The methods of the literature, each a few lines over the grammar, with its paper's defaults."""

from sparsejax.recipes.alternating import ac_dc as ac_dc
from sparsejax.recipes.dense_to_sparse import gmp as gmp
from sparsejax.recipes.dense_to_sparse import one_shot as one_shot
from sparsejax.recipes.dense_to_sparse import snip as snip
from sparsejax.recipes.sparse_to_sparse import rigl as rigl
from sparsejax.recipes.sparse_to_sparse import rigl_times as rigl_times
from sparsejax.recipes.sparse_to_sparse import set_ as set_
from sparsejax.recipes.sparse_to_sparse import static_random as static_random
