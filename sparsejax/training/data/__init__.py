"""Data sets on the device or as streams, their augmentation, and the order in which steps visit them."""

from sparsejax.training.data.augment_recipes import RECIPES as RECIPES
from sparsejax.training.data.augment_recipes import Operation as Operation
from sparsejax.training.data.augment_recipes import Recipe as Recipe
from sparsejax.training.data.augment_recipes import build_augment as build_augment
from sparsejax.training.data.augment_recipes import center_crop as center_crop
from sparsejax.training.data.augment_recipes import normalized as normalized
from sparsejax.training.data.augment_recipes import random_augment as random_augment
from sparsejax.training.data.augment_recipes import random_crop as random_crop
from sparsejax.training.data.augment_recipes import random_cutout as random_cutout
from sparsejax.training.data.augment_recipes import random_flip as random_flip
from sparsejax.training.data.augment_recipes import random_mixup as random_mixup
from sparsejax.training.data.augment_recipes import random_resized_crop as random_resized_crop
from sparsejax.training.data.augment_recipes import smoothed_labels as smoothed_labels
from sparsejax.training.data.batches import batch_indices as batch_indices
from sparsejax.training.data.batches import steps_per_epoch as steps_per_epoch
from sparsejax.training.data.loading import load as load
from sparsejax.training.data.preparing import data_directory as data_directory
from sparsejax.training.data.split import Batch as Batch
from sparsejax.training.data.split import Split as Split
from sparsejax.training.data.split import evenly_spaced as evenly_spaced
from sparsejax.training.data.streaming import Stream as Stream
from sparsejax.training.data.streaming import Throughput as Throughput
from sparsejax.training.data.streaming import stream as stream
