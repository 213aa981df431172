"""Refuses a run whose hosts differ in configuration, code or versions, before any of them computes."""

import functools
import hashlib
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.errors import HostError

#: What must have one version everywhere; absent ones count as such.
PACKAGES = ("jax", "jaxlib", "libtpu", "optax", "flax", "numpy", "orbax-checkpoint", "grain", "array_record")
# Bytes that each host's facts have room in.
_ROOM = 4096


def check_hosts_agree(config: Mapping[str, Any]) -> None:
    """Compares what the hosts of a run are about to do; all must call it, and all get the same answer.

    A host with another version compiles another program: at best the collectives fail, at worst the numbers differ.

    Args:
      config: the run's configuration, as JSON holds it.

    Raises:
      HostError: the hosts differ; it says in what, and which hosts.

    Example:
      >>> check_hosts_agree({"seed": 0})
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    if told := differences(_gather(facts(config))):
        raise HostError(
            f"The hosts of this run differ: {'; '.join(told)}. Give all of them the same command, the same checkout "
            "and the same environment, and launch again."
        )


def facts(config: Mapping[str, Any]) -> dict[str, str]:
    """Says what this host would run.

    Args:
      config: as JSON holds it.

    Returns:
      Name to version or digest, all of them text.

    Example:
      >>> sorted(set(facts({})) - set(PACKAGES))
      ['code', 'configuration', 'python']
    """
    text = json.dumps(config, sort_keys=True)
    return {
        "configuration": hashlib.sha256(text.encode()).hexdigest()[:12],
        "code": code_digest(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: _version(name) for name in PACKAGES},
    }


@functools.cache
def code_digest() -> str:
    """Digests the source of the library and of the runner: a checkout that is behind tells itself apart.

    Returns:
      Twelve hexadecimal digits.
    """
    root, found = pathlib.Path(__file__).parents[2], hashlib.sha256()
    for room in ("sparsejax", "experiments"):
        for path in sorted((root / room).rglob("*.py")):
            found.update(str(path.relative_to(root)).encode())
            found.update(path.read_bytes())
    return found.hexdigest()[:12]


def differences(hosts: Sequence[Mapping[str, str]]) -> list[str]:
    """Names what hosts differ in.

    Args:
      hosts: the facts of each, by its number.

    Returns:
      A line a name: each value with the hosts that have it, the commonest first.

    Example:
      >>> differences([{"jax": "0.10.2"}, {"jax": "0.10.2"}, {"jax": "0.11.0"}])
      ['jax is 0.10.2 on hosts 0, 1 and 0.11.0 on host 2']
    """
    told = []
    for name in hosts[0]:
        where: dict[str, list[int]] = {}
        for number, host in enumerate(hosts):
            where.setdefault(host.get(name, "absent"), []).append(number)
        if len(where) > 1:
            ranked = sorted(where.items(), key=lambda item: (-len(item[1]), item[1]))
            told.append(f"{name} is " + " and ".join(f"{value} on {_hosts(of)}" for value, of in ranked))
    return told


def _hosts(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:4])) + (", …" if len(numbers) > 4 else "")
    return f"host{'s' if len(numbers) > 1 else ''} {shown}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _gather(here: Mapping[str, str]) -> list[dict[str, str]]:
    from jax.experimental import multihost_utils

    text = json.dumps(here).encode()
    padded = np.frombuffer(text.ljust(_ROOM), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(-1, _ROOM)
    return [json.loads(row.tobytes()) for row in rows]
