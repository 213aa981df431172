"""The working directory of a run: one configuration, one process, one result."""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.errors import WorkdirError
from experiments.record import files
from experiments.record.full_disk import release, told_of_a_full_disk
from sparsejax.errors import SparsejaxError

_ABSENT = "absent"


@contextlib.contextmanager
def claim(
    directory: str | os.PathLike[str],
    config: Mapping[str, Any],
    *,
    instead_of: Mapping[str, Any] | None = None,
) -> Iterator[pathlib.Path]:
    """Takes a directory for a run of `config`, before anything is computed.

    ``config.json`` in it says whose it is. An unfinished run of the same configuration may be taken up.

    Args:
      directory: made when absent.
      config: the run's configuration, as JSON would hold it.
      instead_of: the configuration whose run it takes over, where that is another (an extension).

    Yields:
      The directory, locked against other processes until the block ends.

    Raises:
      WorkdirError: it cannot be written, another process runs in it, it holds another configuration, or
        what it holds cannot be read.

    Example:
      >>> import tempfile
      >>> with claim(tempfile.mkdtemp(), {"seed": 0}) as path:
      ...     stored_result(path) is None
      True
    """
    path = pathlib.Path(directory).absolute()
    if not os.fspath(directory) or "\0" in os.fspath(directory):
        raise WorkdirError(
            f"The workdir is {directory!r}, which names no directory: give one with --workdir=…."
        )
    _check_foreign(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / ".lock", "w")  # noqa: SIM115 (closed by the stack below)
    except OSError as error:
        raise WorkdirError(
            f"The workdir {path} cannot be written ({error.strerror}): choose another with --workdir=…."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WorkdirError(
                f"Another process is running in {path}: wait for it or choose another --workdir."
            ) from error
        _check_owner(path, config, instead_of)
        files.remove_leftovers(path)
        is_new = not (path / "config.json").exists()
        try:
            with told_of_a_full_disk(path):
                files.write_json(path / "config.json", config)
                yield path
        except SparsejaxError:
            # A run that was refused before its first step claims nothing.
            if is_new and {entry.name for entry in path.iterdir()} <= {".lock", ".reserve", "config.json"}:
                (path / "config.json").unlink(missing_ok=True)
            raise
        finally:
            release(path)


def stored_result(directory: pathlib.Path, config: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Reads the result of a finished run.

    Args:
      directory: a workdir that this process, or another host's, has claimed.
      config: of the run; None for any. A run that is being extended still has the result of its earlier end.

    Returns:
      What ``result.json`` holds; None where there is none of this configuration.

    Raises:
      WorkdirError: it is no JSON, or the directory is none that this host sees.
    """
    if not (directory / "config.json").exists():
        raise WorkdirError(
            f"This host does not see {directory / 'config.json'}, which the first one wrote: give a --workdir that "
            "all hosts share."
        )
    result = _read_json(directory / "result.json")
    if None in (result, config) or not differences(result.get("config", config), config):
        return result
    return None


def stored_config(directory: pathlib.Path) -> dict[str, Any] | None:
    """Reads whose run a workdir holds.

    Args:
      directory: of the run.

    Returns:
      Its configuration; None where there is no run.

    Raises:
      WorkdirError: it is no JSON.
    """
    stored = _read_json(directory / "config.json")
    if stored is None:
        result = _read_json(directory / "result.json")
        stored = None if result is None else result.get("config", {})
    return stored


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names the fields in which two configurations differ.

    Args:
      stored: the configuration that is there.
      wanted: the one that came.
      prefix: put before each name.

    Returns:
      One ``"field: stored there, wanted here"`` for each, in order of the names.

    Example:
      >>> differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
      ['a.b: 1 there, 3 here']
    """
    found = []
    for name in sorted(set(stored) | set(wanted)):
        there, here = stored.get(name, _ABSENT), wanted.get(name, _ABSENT)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            found += differences(there, here, f"{prefix}{name}.")
        elif there != here:
            found.append(f"{prefix}{name}: {there} there, {here} here")
    return found


def _check_owner(path: pathlib.Path, config: Mapping[str, Any], instead_of: Mapping[str, Any] | None) -> None:
    stored = stored_config(path)
    if stored is None or (instead_of is not None and not differences(stored, instead_of)):
        return
    wanted = json.loads(json.dumps(config))
    if found := differences(stored, wanted):
        following = followers(stored, wanted)
        told = [line for line in found if line.split(":")[0] not in following]
        raise WorkdirError(
            f"The workdir {path} belongs to another configuration; {'; '.join(told)}. "
            f"Choose another --workdir, or remove {path}.{_remedy(stored, wanted, told)}"
        )


def _remedy(stored: Mapping[str, Any], wanted: Mapping[str, Any], told: list[str]) -> str:
    """What else serves where more steps are all that is new."""
    steps = [config.get("steps") for config in (stored, wanted)]
    if all(line.startswith("steps:") for line in told) and steps[0] < steps[1]:
        return " With --extend experiments.train goes on from where the run ended."
    return ""


def followers(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> set[str]:
    """The times that are the same share of `steps` on both sides: they differ because `steps` does.

    Args:
      stored: the configuration that is there.
      wanted: the one that came.

    Returns:
      Names of fields.

    Example:
      >>> followers({"steps": 100, "end_step": 75}, {"steps": 200, "end_step": 150})
      {'end_step'}
    """
    there, here = stored.get("steps"), wanted.get("steps")
    if not isinstance(there, int) or not isinstance(here, int) or there == here:
        return set()
    times = {name for name in {*stored, *wanted} if name.endswith(("_step", "_steps", "_every"))}
    pairs = {name: (stored.get(name), wanted.get(name)) for name in times}
    whole = {name: pair for name, pair in pairs.items() if all(isinstance(time, int) for time in pair)}
    # Each is rounded down to a whole step.
    return {name for name, (a, b) in whole.items() if abs(a * here - b * there) <= max(there, here)}


def _check_foreign(path: pathlib.Path) -> None:
    """Refuses a folder that holds something else than a run, before anything is written into it."""
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError:  # absent, or said of it below
        return
    if {"config.json", "result.json"} & set(names):
        return
    if foreign := [name for name in names if not name.startswith(".")]:
        some = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise WorkdirError(
            f"The workdir {path} holds something else than a run ({some}): give an empty or a new directory with "
            "--workdir=…."
        )


def _read_json(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict | None):
            raise ValueError(f"it holds a {type(found).__name__}, no fields")
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WorkdirError(
            f"{path} cannot be read ({error}): remove it, or choose another --workdir."
        ) from error


def was_killed(status: int) -> bool:
    """Whether a process was killed, or stopped as SIGTERM asks, rather than failing on its own."""
    return status < 0 or status in (137, 143)
