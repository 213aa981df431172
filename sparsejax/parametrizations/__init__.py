"""Parametrizations for `reparametrize`: what may stand between latents and the parameters that the model sees."""

from sparsejax.parametrizations.fake_quantization import fake_quant as fake_quant
from sparsejax.parametrizations.fake_quantization import quantized_params as quantized_params
from sparsejax.parametrizations.gates import GateGroup as GateGroup
from sparsejax.parametrizations.l0_gates import expected_sparsity as expected_sparsity
from sparsejax.parametrizations.l0_gates import hard_concrete as hard_concrete
from sparsejax.parametrizations.ste import straight_through as straight_through
from sparsejax.parametrizations.trained_scores import movement as movement
from sparsejax.parametrizations.trained_scores import soft_movement as soft_movement
from sparsejax.transforms.parametrization import Aux as Aux
from sparsejax.transforms.parametrization import Parametrization as Parametrization
