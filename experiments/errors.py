"""Typed errors of the runner; each says what came, where it came from, and what to do about it."""

from sparsejax.errors import SparsejaxError


class ConfigError(SparsejaxError, ValueError):
    """A configuration of `experiments` that cannot be run as written."""


class DatasetError(SparsejaxError, ValueError):
    """A data set that is unknown, empty, or not prepared."""


class WorkdirError(SparsejaxError, OSError):
    """A working directory that cannot be written, or that belongs to another configuration."""


class TrainingError(SparsejaxError, FloatingPointError):
    """Training that broke down: a loss that is no finite number."""


class CheckpointError(SparsejaxError, OSError):
    """A checkpoint that cannot be written or trusted."""


class Interrupted(SparsejaxError, RuntimeError):
    """A run that was asked to stop, and did so after writing a checkpoint."""


class HostError(SparsejaxError, RuntimeError):
    """A run of several processes that ends here because another one of them failed."""
