"""The training command that a launch runs on every host, checked before anything is launched."""

import shlex
from collections.abc import Sequence
from typing import Any

from absl import flags
from jax.sharding import AbstractMesh
from ml_collections import config_flags

from experiments.command import own_error
from experiments.config.switching import SwitchingParser, spell_out
from experiments.config.validation import validate_config
from experiments.devices.mesh import batch_sharding, check_batch, mesh_shape
from experiments.errors import DeviceError, LaunchError

_EXAMPLE = "-- --config=configs/imagenet_resnet50_rigl.py --workdir=/shared/runs/rn50"


def training_command(arguments: Sequence[str], python: str = "python") -> tuple[str, ...]:
    """The command of one host.

    Args:
      arguments: of `experiments.train`.
      python: the interpreter there.

    Returns:
      The argument list.

    Example:
      >>> training_command(["--workdir=runs/a"])
      ('python', '-m', 'experiments.train', '--workdir=runs/a')
    """
    return (python, "-m", "experiments.train", *arguments)


def shell_command(arguments: Sequence[str], python: str = "python") -> str:
    """The same as one line of shell."""
    return shlex.join(training_command(arguments, python))


def check_training(arguments: Sequence[str], devices: int) -> None:
    """Refuses a run that its devices could not take, before they are asked for.

    Args:
      arguments: of `experiments.train`.
      devices: of all hosts together.

    Raises:
      LaunchError: no configuration or no workdir, or flags that `experiments.train` does not have.
      ConfigError: a configuration that is not valid.
      DeviceError: a mesh that does not use the devices, or a batch that they cannot share.
    """
    config = _read(arguments)
    validate_config(config)
    shape = mesh_shape(config.mesh, devices)
    mesh = AbstractMesh(shape, tuple(config.mesh))
    if mesh.size != devices:
        raise DeviceError(
            f"config.mesh uses 1 device, and the launch has {devices}: add --config.mesh.data=-1, or another axis."
        )
    sharding = batch_sharding(mesh, population=bool(config.population))
    check_batch("batch_size", config.batch_size, sharding, config.accumulate)
    check_batch("eval_batch_size", config.eval_batch_size, sharding)


def _read(arguments: Sequence[str]) -> Any:
    """The configuration as the command line will make it, in flags of its own."""
    spelled = spell_out(["train", *arguments])
    own = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=own, sys_argv=spelled)
    own["config"].parser = SwitchingParser(own["config"].parser, spelled)
    flags.DEFINE_string("workdir", None, "", flag_values=own)
    try:
        rest = own(spelled)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        if own := own_error(error):  # what the configuration's file raised
            raise own from None
        raise LaunchError(f"The training command cannot be read: {error}") from error
    missing = [f"--{name}=…" for name in ("config", "workdir") if own[name].value is None]
    if missing or rest:
        what = f"lacks {' and '.join(missing)}" if missing else f"has {' '.join(rest)!r}, which is no flag"
        raise LaunchError(f"The training command {what}. It comes after two dashes: {_EXAMPLE}")
    try:
        return own.config.copy_and_resolve_references()
    except OSError as error:
        raise LaunchError(f"The configuration cannot be read: {' '.join(str(error).split())}") from error
