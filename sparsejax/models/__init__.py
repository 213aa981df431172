"""Models in flax nnx, sized by config; nothing else in the library imports flax."""

from sparsejax.models.build import build_model as build_model
from sparsejax.models.functional import functional as functional
from sparsejax.models.lenet import LeNet as LeNet
from sparsejax.models.mlp import MLP as MLP
