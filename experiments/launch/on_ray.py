"""A Ray cluster of GPU machines or TPU hosts: `ray job submit` of a driver that puts one process on each host.

The driver itself:  python -m experiments.launch.on_ray --hosts=2 --gpus=8 -- python -m experiments.train …
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.errors import LaunchError
from experiments.launch.names import at_least, one_line
from experiments.launch.plan import Plan
from experiments.launch.processes import free_port, place
from experiments.launch.slices import HOST, tpu_slice
from experiments.launch.training import training_command

#: Seconds that the hosts may take to come.
_PATIENCE = 600


class Hosts(NamedTuple):
    """The part of a Ray cluster that a run takes: one process a host.

    Attributes:
      count: machines.
      gpus: of each; 0 for none.
      slice: a TPU slice, such as ``"v6e-16"``, instead of both.
      pack: whether processes may share a machine.
    """

    count: int = 1
    gpus: int = 0
    slice: str = ""
    pack: bool = False

    @property
    def devices(self) -> int:
        """Of all hosts; one of each without GPUs."""
        return tpu_slice(self.slice).chips if self.slice else self.count * max(self.gpus, 1)


def ray_plan(address: str, hosts: Hosts, arguments: Sequence[str]) -> Plan:
    """Submits the driver; this checkout goes along as its working directory.

    Args:
      address: of the cluster's dashboard, such as ``"http://127.0.0.1:8265"``.
      hosts: what the run takes of it.
      arguments: of `experiments.train`; the workdir is seen by all hosts.

    Returns:
      The plan.

    Raises:
      LaunchError: an option that Ray would not take.
    """
    if not one_line("address", address).startswith(("http://", "https://")):
        raise LaunchError(f"--address is {address!r}: jobs go to the dashboard, http://HOST:8265.")
    environment = {"excludes": [".git", ".venv", ".aot", "runs"]}
    driver = ["python", "-m", "experiments.launch.on_ray", *_driver_options(hosts), "--"]
    submit = ["ray", "job", "submit", f"--address={address}", "--working-dir=."]
    submit.append(f"--runtime-env-json={json.dumps(environment)}")
    return Plan(((*submit, "--", *driver, *training_command(arguments)),))


def _driver_options(hosts: Hosts) -> list[str]:
    if hosts.slice:
        return [f"--slice={tpu_slice(hosts.slice).name}"]
    options = [f"--hosts={at_least('hosts', hosts.count)}", f"--gpus={at_least('gpus', hosts.gpus, 0)}"]
    return options + (["--pack"] if hosts.pack else [])


def main(argv: list[str] | None = None) -> int:
    """Runs the driver; returns the first status that is not 0."""
    parser = argparse.ArgumentParser(prog="python -m experiments.launch.on_ray", description=__doc__)
    parser.add_argument("--slice", default="", help="a TPU slice, instead of --hosts and --gpus")
    parser.add_argument("--hosts", type=int, default=1, help="machines")
    parser.add_argument("--gpus", type=int, default=0, help="of each")
    parser.add_argument("--pack", action="store_true", help="processes may share a machine")
    parser.add_argument("command", nargs="+", help="what to run on each, after two dashes")
    found = parser.parse_args(argv)
    return run_on_hosts(Hosts(found.hosts, found.gpus, found.slice, found.pack), found.command)


def run_on_hosts(hosts: Hosts, command: Sequence[str]) -> int:
    """Reserves the hosts together, and runs the command on each.

    On TPU hosts JAX finds its peers itself; elsewhere the first host's address and a free port of it are handed to
    all. When one process fails the others end by JAX's heartbeat.

    Args:
      hosts: what to reserve; the driver runs in the cluster.
      command: what to run.

    Returns:
      The first status that is not 0, as a shell tells it; 0 where all ended well.

    Raises:
      LaunchError: Ray is not installed, or has not that many hosts.
    """
    ray = _ray()
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    resources = {"TPU": float(HOST)} if hosts.slice else {}
    with _reserved(hosts) as (group, count):

        def on(number: int, function: Any) -> Any:
            where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
            asked = {"num_cpus": 0 if hosts.slice else 1, "num_gpus": hosts.gpus, "resources": resources}
            return ray.remote(function).options(scheduling_strategy=where, max_retries=0, **asked)

        address = ray.get(on(0, _own_address).remote())
        places = [_place(hosts, number, count, address) for number in range(count)]
        pending = [on(number, _run).remote(list(command), where) for number, where in enumerate(places)]
        return next((status for status in ray.get(pending) if status), 0)


@contextlib.contextmanager
def _reserved(hosts: Hosts) -> Iterator[tuple[Any, int]]:
    """A placement group of one bundle a host, and how many it has."""
    if hosts.slice:
        from ray.util.tpu import slice_placement_group

        wanted = tpu_slice(hosts.slice)
        version = wanted.accelerator.rpartition("-")[0]
        held = slice_placement_group(wanted.topology, version, chips_per_vm=min(HOST, wanted.chips))
        group, count, release = held.placement_group, wanted.hosts, held.shutdown
    else:
        from ray.util.placement_group import placement_group, remove_placement_group

        bundle = {"CPU": 1.0} | ({"GPU": float(hosts.gpus)} if hosts.gpus else {})
        group = placement_group([bundle] * hosts.count, "PACK" if hosts.pack else "STRICT_SPREAD")
        count, release = hosts.count, lambda: remove_placement_group(group)
    try:
        if not group.wait(timeout_seconds=_PATIENCE):
            raise LaunchError(f"Ray has not what {hosts} asks for: `ray status` says what there is.")
        yield group, count
    finally:
        release()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise LaunchError("Ray is not installed here: pip install -e '.[ray]'.") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=True)
    return ray


def _place(hosts: Hosts, number: int, count: int, address: str) -> dict[str, str]:
    if count == 1:
        return {}
    return {"SPARSEJAX_HOSTS": "detect"} if hosts.slice else place(number, count, address)


def _own_address() -> str:
    import ray

    return f"{ray.util.get_node_ip_address()}:{free_port()}"


def _run(command: Sequence[str], where: Mapping[str, str]) -> int:
    status = subprocess.run(list(command), env=os.environ | where, check=False).returncode
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
