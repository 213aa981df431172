"""Parametrizations: what may stand between latents and the parameters that the model sees."""

from sparsejax.transforms.parametrizations.base import Aux as Aux
from sparsejax.transforms.parametrizations.base import Parametrization as Parametrization
from sparsejax.transforms.parametrizations.gates import GateGroup as GateGroup
from sparsejax.transforms.parametrizations.hard_concrete import expected_sparsity as expected_sparsity
from sparsejax.transforms.parametrizations.hard_concrete import hard_concrete as hard_concrete
from sparsejax.transforms.parametrizations.movement import movement_scores as movement_scores
from sparsejax.transforms.parametrizations.movement import soft_movement_scores as soft_movement_scores
from sparsejax.transforms.parametrizations.straight_through import (
    straight_through_masks as straight_through_masks,
)
