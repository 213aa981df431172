"""Checks what the options of a launch say before any command is made of them."""

import re
from typing import Any

from experiments.errors import LaunchError

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_TIME = re.compile(r"(\d+-)?\d{1,3}(:\d{2}){0,2}")


def label(option: str, value: str, longest: int = 40) -> str:
    """Accepts a name that Kubernetes and Compute Engine take: lower-case letters, digits, dashes.

    Args:
      option: where it came from.
      value: the name.
      longest: characters; job names become parts of longer ones, which end at 63.

    Returns:
      The name.

    Raises:
      LaunchError: another name.

    Example:
      >>> label("name", "rn50-a")
      'rn50-a'
    """
    if not _LABEL.fullmatch(value) or len(value) > longest:
        raise LaunchError(
            f"--{option} is {value!r}: it takes lower-case letters, digits and dashes, a letter first, at most "
            f"{longest} of them."
        )
    return value


def at_least(option: str, value: int, least: int = 1) -> int:
    """Accepts a whole number from `least` on.

    Raises:
      LaunchError: a smaller one.

    Example:
      >>> at_least("nodes", 2)
      2
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise LaunchError(f"--{option} is {value!r}: it is a whole number of at least {least}.")
    return value


def one_line(option: str, value: str) -> str:
    """Accepts any text that is not empty and has no line break or control character.

    Raises:
      LaunchError: another one.

    Example:
      >>> one_line("image", "europe-docker.pkg.dev/p/r/sparsejax:1")
      'europe-docker.pkg.dev/p/r/sparsejax:1'
    """
    if not value or not value.isprintable() or value != value.strip():
        raise LaunchError(f"--{option} is {value!r}: give it a value of one line.")
    return value


def time_limit(option: str, value: str) -> str:
    """Accepts a time as SLURM writes it: minutes, hours:minutes:seconds, days-hours, ….

    Raises:
      LaunchError: another text.

    Example:
      >>> time_limit("time", "1-12:00:00")
      '1-12:00:00'
    """
    if not _TIME.fullmatch(value):
        raise LaunchError(f"--{option} is {value!r}: write minutes, hours:minutes:seconds or days-hours.")
    return value


def one_of(option: str, value: Any, choices: Any) -> Any:
    """Accepts one of a few.

    Raises:
      LaunchError: another one.

    Example:
      >>> one_of("capacity", "spot", ("spot", "on-demand"))
      'spot'
    """
    if value not in choices:
        raise LaunchError(f"--{option} is {value!r}: choose one of {', '.join(map(str, choices))}.")
    return value
