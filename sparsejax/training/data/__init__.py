"""Data sets as arrays on the device, and the order in which steps visit them."""

from sparsejax.training.data.batches import batch_indices as batch_indices
from sparsejax.training.data.batches import steps_per_epoch as steps_per_epoch
from sparsejax.training.data.loading import Examples as Examples
from sparsejax.training.data.loading import data_directory as data_directory
from sparsejax.training.data.loading import load as load
