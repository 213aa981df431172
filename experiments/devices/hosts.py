"""Several processes as one run: joining them, failing together, and which part of the data each one reads."""

import contextlib
import os
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding

from experiments.errors import DeviceError, HostError

#: Seconds after which the others end when a process has died without a word; the runtime's own threads keep
#: the heartbeat, so a long compilation does not stop it.
HEARTBEAT = 60

#: Seconds that a process which ends early waits for the others to end as well.
SHUTDOWN = 30

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join_hosts() -> bool:
    """Joins the other hosts of this launch, if there are any; call it before anything else touches JAX.

    JAX itself detects SLURM, OpenMPI, Kubernetes and Cloud TPUs; on a TPU VM reached over ssh, whose environment
    names no other, ``SPARSEJAX_HOSTS=detect`` has it ask. Elsewhere set, for each process,
    ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``. A process that dies without a
    word ends the others after `HEARTBEAT` seconds, one that fails with an error after `SHUTDOWN` seconds.

    Returns:
      Whether this is one of several processes.

    Raises:
      DeviceError: a part of the three variables is missing, or is not a number; or hosts that were to be detected are
        none that JAX knows.

    Example:
      >>> join_hosts()
      False
    """
    if not jax.distributed.is_initialized():
        limits = {"heartbeat_timeout_seconds": HEARTBEAT, "shutdown_timeout_seconds": SHUTDOWN}
        if place := _given_place():
            jax.distributed.initialize(*place, **limits)
        elif _asked_to_detect():
            _detect(limits)
        elif _launched_on_several_hosts():
            jax.distributed.initialize(**limits)
    return jax.distributed.is_initialized() and jax.process_count() > 1


def _given_place() -> tuple[str, int, int] | None:
    address, count, number = (os.environ.get(name) for name in _VARIABLES)
    if not (count or number):  # an address alone is for JAX's own detection
        return None
    if not (address and count and number and count.isdigit() and number.isdigit()):
        raise DeviceError(
            f"Set all of {', '.join(_VARIABLES)} for each process (host:port and two numbers), or none of "
            f"them; got {[address, count, number]}."
        )
    if not int(number) < int(count):
        raise DeviceError(f"JAX_PROCESS_ID={number} must be below JAX_NUM_PROCESSES={count}.")
    return address, int(count), int(number)


def _asked_to_detect() -> bool:
    asked = os.environ.get("SPARSEJAX_HOSTS", "")
    if asked not in ("", "detect"):
        raise DeviceError(f"SPARSEJAX_HOSTS is {asked!r}: it is 'detect', or not set.")
    return bool(asked)


def _detect(limits: dict[str, int]) -> None:
    try:
        jax.distributed.initialize(**limits)
    except (ValueError, RuntimeError) as error:
        raise DeviceError(
            f"SPARSEJAX_HOSTS=detect, but JAX detects no other hosts here ({error}): set {', '.join(_VARIABLES)} for "
            "each process instead."
        ) from error


def _launched_on_several_hosts() -> bool:
    """Whether a launcher that JAX knows started more than one process."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1") if "SLURM_STEP_NODELIST" in os.environ else "1"
    ranks = os.environ.get("OMPI_COMM_WORLD_SIZE", "1")
    return int(tasks) > 1 or int(ranks) > 1 or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Makes all hosts leave a block well, or none: what fails on one of them ends the run on all at once.

    Nothing inside may wait for other hosts.

    Raises:
      HostError: the block went well here, and failed on another host.

    Example:
      >>> with together():
      ...     pass
    """
    try:
        yield
    except BaseException:
        _all_well(False)
        raise
    if not _all_well(True):
        raise HostError("Another process of this run failed; its own output says why.")


def _all_well(here: bool) -> bool:
    return bool(_gather(here).all())


def any_host(here: bool) -> bool:
    """Tells whether something holds on any host; all must ask.

    Args:
      here: whether it holds on this one.

    Returns:
      The same on all.

    Example:
      >>> any_host(False)
      False
    """
    return bool(_gather(here).any())


def same_on_all(here: int) -> bool:
    """Tells whether all hosts hold the same number; all must ask.

    Args:
      here: this host's, in the range of an int32.

    Returns:
      The same on all.

    Example:
      >>> same_on_all(3)
      True
    """
    found = _gather(here)
    return bool((found == found.flat[0]).all())


def _gather(here: int) -> np.ndarray:
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return np.array([here])
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.array(here, np.int32)))


def data_share(sharding: NamedSharding | None, batch_size: int) -> tuple[int, int]:
    """Says which part of each batch this process reads.

    Hosts whose devices hold the same examples (tensor layouts, populations) read the same.

    Args:
      sharding: of a batch; None on one device.
      batch_size: its examples, over all hosts.

    Returns:
      ``(index, count)``: part number `index` of `count`.

    Raises:
      DeviceError: the hosts' parts overlap, or differ in size.

    Example:
      >>> data_share(None, 8)
      (0, 1)
    """
    if sharding is None:
        return 0, 1
    rows: dict[int, set[int]] = {}
    for device, index in sharding.devices_indices_map((batch_size,)).items():
        rows.setdefault(device.process_index, set()).update(range(*index[0].indices(batch_size)))
    parts = sorted({tuple(sorted(part)) for part in rows.values()})
    if sum(len(part) for part in parts) != batch_size or len({len(part) for part in parts}) > 1:
        raise DeviceError(
            f"The mesh {dict(sharding.mesh.shape)} cuts a batch of {batch_size} so that hosts share some "
            "examples and not others: make config.mesh.tensor a divisor or a multiple of a host's devices."
        )
    return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)
