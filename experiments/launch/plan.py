"""What a launch comes to: files to write and commands to run, shown as a shell script or carried out."""

import pathlib
import shlex
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from experiments.errors import LaunchError

_END = "END_OF_FILE"


class Plan(NamedTuple):
    """A launch.

    Attributes:
      commands: argument lists, one after the other; the next only where the one before ended well.
      files: paths and texts, written first.
      afterwards: commands that are shown and never run: how to watch, stop and repeat it.
    """

    commands: tuple[tuple[str, ...], ...]
    files: tuple[tuple[str, str], ...] = ()
    afterwards: tuple[tuple[str, ...], ...] = ()


def script(plan: Plan) -> str:
    """Writes a plan as a shell script, which does what `carry_out` does.

    Args:
      plan: the launch.

    Returns:
      The script.

    Example:
      >>> print(script(Plan((("echo", "a b"),), afterwards=(("true",),))))
      set -e
      echo 'a b'
      # afterwards: true
    """
    lines = ["set -e"]
    for path, text in plan.files:
        lines += [f"cat > {shlex.quote(path)} <<'{_END}'", text.rstrip("\n"), _END]
    lines += [shlex.join(command) for command in plan.commands]
    lines += [f"# afterwards: {shlex.join(command)}" for command in plan.afterwards]
    return "\n".join(lines)


def carry_out(plan: Plan) -> int:
    """Writes the files and runs the commands.

    Args:
      plan: the launch.

    Returns:
      The first exit status that is not 0, or 0.

    Raises:
      LaunchError: a file that cannot be written, or a program that is not installed.

    Example:
      >>> carry_out(Plan((("true",), ("false",), ("true",))))
      1
    """
    for path, text in plan.files:
        try:
            pathlib.Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise LaunchError(f"{path} cannot be written ({error}): choose another --file.") from error
    for command in plan.commands:
        if status := _status(command):
            return status
    return 0


def _status(command: Sequence[str]) -> int:
    try:
        return subprocess.run(command, check=False).returncode
    except OSError as error:
        raise LaunchError(
            f"{command[0]!r} cannot be run here ({error.strerror}): install it, or leave --run out and take the "
            "commands to a machine that has it."
        ) from error
