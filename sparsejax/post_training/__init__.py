"""Post-training pruning: masks and weights for a trained network from a few calibration batches."""

from sparsejax.post_training.evaluation import Agreement as Agreement
from sparsejax.post_training.evaluation import Perplexity as Perplexity
from sparsejax.post_training.evaluation import agreement as agreement
from sparsejax.post_training.evaluation import perplexity as perplexity
from sparsejax.post_training.gram import CalibrationWarning as CalibrationWarning
from sparsejax.post_training.gram import layer_error as layer_error
from sparsejax.post_training.methods import alps as alps
from sparsejax.post_training.methods import magnitude as magnitude
from sparsejax.post_training.methods import sparsegpt as sparsegpt
from sparsejax.post_training.methods import wanda as wanda
from sparsejax.post_training.model import prune_model as prune_model
from sparsejax.post_training.results import LayerResult as LayerResult
from sparsejax.post_training.results import PrunedModel as PrunedModel
from sparsejax.post_training.solution import Solution as Solution
from sparsejax.post_training.solvers.activation_scores import ria_mask as ria_mask
from sparsejax.post_training.solvers.activation_scores import wanda_mask as wanda_mask
from sparsejax.post_training.solvers.alps import solve_alps as solve_alps
from sparsejax.post_training.solvers.asymmetric import asymmetric_target as asymmetric_target
from sparsejax.post_training.solvers.magnitude import global_masks as global_masks
from sparsejax.post_training.solvers.magnitude import magnitude_mask as magnitude_mask
from sparsejax.post_training.solvers.resolving import resolve_weights as resolve_weights
from sparsejax.post_training.solvers.sparsegpt import solve_sparsegpt as solve_sparsegpt
from sparsejax.post_training.solvers.sparsegpt import update_weights as update_weights
from sparsejax.post_training.solvers.swaps import refine_by_swaps as refine_by_swaps
