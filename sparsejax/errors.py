"""Typed errors: each says what came, where it came from, and what to do about it."""


class SparsejaxError(Exception):
    """Base of every error that sparsejax raises on purpose.

    Example:
      >>> import sparsejax
      >>> issubclass(sparsejax.errors.SparsityError, sparsejax.errors.SparsejaxError)
      True
    """


class SparsityError(SparsejaxError, ValueError):
    """A sparsity outside [0, 1], or one that the chosen pattern cannot reach."""


class PatternError(SparsejaxError, ValueError):
    """A pattern that does not fit the shape or the axis roles of a parameter."""


class LayoutError(SparsejaxError, ValueError):
    """A parameter whose axes must be known as inputs or outputs, and are not."""


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


class TracingError(SparsejaxError, ValueError):
    """A function that the tracer cannot read, or a request that does not fit what it read."""


class CalibrationError(SparsejaxError, ValueError):
    """Calibration statistics that are missing, not finite, or do not fit the weights."""


class FileError(SparsejaxError, ValueError):
    """A file that cannot be written, is damaged, or holds something else."""


class EvaluationError(SparsejaxError, ValueError):
    """Tokens, windows or results of a model that cannot be evaluated."""


class QuantizationError(SparsejaxError, ValueError):
    """Weights that cannot be quantized, or bits and groups that do not fit them."""


class KernelError(SparsejaxError, ValueError):
    """A sparse product that cannot be computed: an unsupported type, device or size."""


class CapacityError(SparsejaxError, ValueError):
    """More live blocks than the storage of a block-sparse matrix has room for."""


class SearchError(SparsejaxError, ValueError):
    """A search that cannot be run: nothing to choose, a budget out of reach, a cost that is no number."""


class InstallError(SparsejaxError, ImportError):
    """A package of an optional extra that is not installed; the error names the extra."""
