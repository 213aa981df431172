"""Typed errors of the runner; each says what came, where it came from, and what to do about it."""

from sparsejax import errors
from sparsejax.errors import SparsejaxError


class ConfigError(SparsejaxError, ValueError):
    """A configuration of `experiments` that cannot be run as written."""


class DeviceError(ConfigError):
    """Devices, hosts or a mesh that do not fit one another or the batch."""


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


class LaunchError(SparsejaxError, ValueError):
    """A launch that cannot be made: an option that does not fit, or a program that is not installed."""


#: The page that helps where an error's own text does not suffice; `docs/guide.md` for all others.
PAGES: dict[type[SparsejaxError], str] = {
    DeviceError: "docs/pods.md",  # before the type that it is one of
    ConfigError: "docs/runner.md",
    DatasetError: "docs/data.md",
    WorkdirError: "docs/runner.md",
    TrainingError: "docs/runner.md",
    CheckpointError: "docs/runner.md",
    HostError: "docs/pods.md",
    LaunchError: "docs/pods.md",
    errors.KernelError: "docs/kernels.md",
    errors.CapacityError: "docs/kernels.md",
    errors.QuantizationError: "docs/quantization.md",
    errors.SearchError: "docs/searching.md",
    errors.TracingError: "docs/tracer.md",
    errors.FileError: "docs/files.md",
    errors.InstallError: "docs/guides/torch.md",
}


def error_text(error: SparsejaxError) -> str:
    """Says what a command says before it ends: the error, and the page that helps.

    Args:
      error: what was raised.

    Returns:
      Two lines.

    Example:
      >>> print(error_text(ConfigError("No such field.")))
      ConfigError: No such field.
      More: docs/runner.md
    """
    page = next((page for kind, page in PAGES.items() if isinstance(error, kind)), "docs/guide.md")
    return f"{type(error).__name__}: {error}\nMore: {page}"
