"""A run that goes on beyond its end: which configuration that is, and in what words it is told."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.config.checks import require
from experiments.errors import WorkdirError
from experiments.record.outcome import as_json
from experiments.record.workdir import differences, followers, stored_config
from experiments.run.optimizers import restarts


def extend_config(config: ConfigDict, workdir: str) -> ConfigDict:
    """The configuration of a workdir's run with more steps; all that came before stays as it was.

    ``config.extended`` gets the step at which the run ended, and times that follow the steps keep theirs, so that
    this configuration, run from its first step, does what the run and its extension do.

    Args:
      config: the run's, with more `steps`.
      workdir: of the run, finished or not.

    Returns:
      A configuration of its own; that of the workdir where it is this extension already.

    Raises:
      WorkdirError: no run is there, or one of another configuration.
      ConfigError: no more steps than it has.

    Example:
      >>> import json, pathlib, tempfile
      >>> from experiments.config.fields import default_config
      >>> config, workdir = default_config(), tempfile.mkdtemp()
      >>> _ = (pathlib.Path(workdir) / "config.json").write_text(config.to_json())
      >>> config.steps = 8000
      >>> more = extend_config(config, workdir)
      >>> more.extended, more.steps, more.end_step
      ((5000,), 8000, 3750)
    """
    path = pathlib.Path(workdir)
    stored = stored_config(path)
    if stored is None:
        raise WorkdirError(
            f"The workdir {path} holds no run to extend: leave --extend out, or give the run's workdir."
        )
    ends = tuple(stored.get("extended", ()))
    _check_same(path, stored, as_json(config), ends)
    again = bool(ends) and config.steps == stored["steps"]  # stopped inside the extension, or done
    enough = f"more than the {stored['steps']} steps of {path}, to extend that run"
    require(again or config.steps > stored["steps"], "steps", config.steps, enough)
    made = config.copy_and_resolve_references()
    for name in followers({**stored, "steps": (*ends, stored["steps"])[0]}, as_json(config)):
        made[name] = stored[name]
    made.extended = ends if again else (*ends, stored["steps"])
    return made


def _check_same(
    path: pathlib.Path, stored: Mapping[str, Any], wanted: Mapping[str, Any], ends: tuple[int, ...]
) -> None:
    """Refuses more than other steps, and the times that follow those of the first end."""
    first = {**stored, "steps": (*ends, stored["steps"])[0]}
    free = {"steps", "extended", *followers(first, wanted)}
    told = [line for line in differences(stored, wanted) if line.split(":")[0] not in free]
    if told:
        raise WorkdirError(
            f"--extend changes config.steps alone, but the run in {path} has another configuration: {'; '.join(told)}."
        )


def describe_extension(config: ConfigDict) -> str:
    """Says how the schedules go on after the ends that a run had.

    Args:
      config: a valid configuration.

    Returns:
      A line; nothing where the run was not extended.

    Example:
      >>> from experiments.config.fields import default_config
      >>> describe_extension(default_config())
      ''
    """
    if not config.extended:
        return ""
    anew = restarts(config)
    rate = (
        f"the learning rate rises and falls anew from step {', '.join(map(str, anew))}"
        if anew
        else "the learning rate goes on along its own schedule"
    )
    ends = ", ".join(map(str, config.extended))
    return (
        f"extended: a run that ended at step {ends} goes on to step {config.steps}; {rate}; the times of the method "
        "stay those of the first end"
    )
