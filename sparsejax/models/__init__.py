"""Models in flax nnx, sized by config; nothing else in the library imports flax."""

from sparsejax.models.build import build_model as build_model
from sparsejax.models.encoder import Encoder as Encoder
from sparsejax.models.functional import Stateful as Stateful
from sparsejax.models.functional import functional as functional
from sparsejax.models.functional import hidden as hidden
from sparsejax.models.functional import stateful as stateful
from sparsejax.models.gpt import GPT as GPT
from sparsejax.models.lenet import LeNet as LeNet
from sparsejax.models.mlp import MLP as MLP
from sparsejax.models.rebuild import rebuild as rebuild
from sparsejax.models.resnet import ResNet as ResNet
from sparsejax.models.transformer import BlockSizes as BlockSizes
from sparsejax.models.transformer import Hidden as Hidden
from sparsejax.models.vit import ViT as ViT
