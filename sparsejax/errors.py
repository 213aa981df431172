"""Typed errors: each says what came, where it came from, and what to do about it."""


class SparsejaxError(Exception):
    """Base of every error that sparsejax raises on purpose.

    Example:
      >>> import sparsejax
      >>> issubclass(sparsejax.SparsityError, sparsejax.SparsejaxError)
      True
    """


class SparsityError(SparsejaxError, ValueError):
    """A sparsity outside [0, 1], or one that the chosen pattern cannot reach."""


class PatternError(SparsejaxError, ValueError):
    """A pattern that does not fit the shape or the axis roles of a parameter."""


class PathError(SparsejaxError, KeyError):
    """A path pattern that matches no parameter."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; a sentence should be read as one.
        return Exception.__str__(self)


class MaskError(SparsejaxError, ValueError):
    """A mask tree that does not fit the parameter tree."""


class ScheduleError(SparsejaxError, ValueError):
    """A schedule or a list of update steps that contradicts itself."""


class ScoreError(SparsejaxError, ValueError):
    """Scores that cannot be ranked: NaN, or missing the gradients they need."""


class RandomKeyError(SparsejaxError, TypeError):
    """A random method that was given no key, or something that is not a key."""


class WrapperError(SparsejaxError, ValueError):
    """An optimizer wrapped around `sparsify` that would move parameters off their masks."""


class ParamsError(SparsejaxError, ValueError):
    """Parameters that are missing, hold no prunable leaf, or do not fit the optimizer state."""


class ConfigError(SparsejaxError, ValueError):
    """A configuration of `experiments` that cannot be run as written."""


class DatasetError(SparsejaxError, ValueError):
    """A data set that is unknown, empty, or not prepared."""


class WorkdirError(SparsejaxError, OSError):
    """A working directory that cannot be written, or that belongs to another configuration."""


class TracingError(SparsejaxError, ValueError):
    """A function that the tracer cannot read, or a request that does not fit what it read."""


class TrainingError(SparsejaxError, FloatingPointError):
    """Training that broke down: a loss that is no finite number."""


class CheckpointError(SparsejaxError, OSError):
    """A checkpoint that cannot be written or trusted."""


class Interrupted(SparsejaxError, RuntimeError):
    """A run that was asked to stop, and did so after writing a checkpoint."""


class HostError(SparsejaxError, RuntimeError):
    """A run of several processes that ends here because another one of them failed."""
