"""TPU slices on Compute Engine: queued resources, asked for, filled with this checkout, and run."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.launch.names import label, one_line, one_of
from experiments.launch.plan import Plan
from experiments.launch.slices import TpuSlice
from experiments.launch.training import shell_command

#: The stages of a launch, in their order.
STAGES = ("create", "wait", "copy", "install", "train")
#: Where capacity comes from: flags of `create`.
CAPACITY = ("on-demand", "spot", "reserved", "guaranteed")
_GCLOUD = ("gcloud", "compute", "tpus", "queued-resources")
_FOLDER = "sparsejax"


class Queued(NamedTuple):
    """A queued resource of one slice.

    Attributes:
      name: of the resource and of its node.
      slice: what is asked for.
      zone: where.
      project: of Google Cloud; empty for gcloud's own setting.
      capacity: one of `CAPACITY`.
      runtime: image of the VMs; empty for the generation's own.
    """

    name: str
    slice: TpuSlice
    zone: str
    project: str = ""
    capacity: str = "on-demand"
    runtime: str = ""


def queued_plan(resource: Queued, arguments: Sequence[str], stages: Sequence[str] = STAGES) -> Plan:
    """Asks for a slice, waits until it is there, copies the checkout to all of its hosts, installs and trains.

    Args:
      resource: what to ask for.
      arguments: of `experiments.train`, below the checkout's folder.
      stages: of `STAGES`; the same run goes on with ``("train",)`` alone.

    Returns:
      The plan.

    Raises:
      LaunchError: an option that gcloud would not take.
    """
    for stage in stages:
        one_of("stages", stage, STAGES)
    label("name", resource.name)
    one_of("capacity", resource.capacity, CAPACITY)
    place = [f"--zone={one_line('zone', resource.zone)}"]
    place += [f"--project={one_line('project', resource.project)}"] if resource.project else []
    made = {
        "create": _create(resource, place),
        "wait": _wait(resource.name, place),
        "copy": (*_GCLOUD, "scp", "--recurse", ".", f"{resource.name}:{_FOLDER}", *_ALL, *place),
        "install": _on_all(resource.name, place, "pip install -e '.[experiments,tpu]'"),
        # An ssh session knows nothing of the slice: JAX is told to ask the machine's metadata for the other hosts.
        "train": _on_all(
            resource.name, place, f"SPARSEJAX_HOSTS=detect {shell_command(arguments, 'python3')}"
        ),
    }
    delete = (*_GCLOUD, "delete", resource.name, "--force", *place)
    return Plan(tuple(made[stage] for stage in STAGES if stage in stages), afterwards=(delete,))


_ALL = ("--worker=all", "--node=all")


def _create(resource: Queued, place: Sequence[str]) -> tuple[str, ...]:
    runtime = one_line("runtime", resource.runtime or resource.slice.runtime)
    capacity = () if resource.capacity == "on-demand" else (f"--{resource.capacity}",)
    of = (f"--accelerator-type={resource.slice.accelerator}", f"--runtime-version={runtime}")
    return (*_GCLOUD, "create", resource.name, f"--node-id={resource.name}", *of, *capacity, *place)


def _wait(name: str, place: Sequence[str]) -> tuple[str, ...]:
    describe = " ".join([*_GCLOUD, "describe", name, "'--format=value(state.state)'", *place])
    states = "ACTIVE) break;; FAILED|SUSPENDED|DELETING) exit 1;;"
    return ("bash", "-c", f'while state="$({describe})"; do case "$state" in {states} esac; sleep 30; done')


def _on_all(name: str, place: Sequence[str], command: str) -> tuple[str, ...]:
    return (*_GCLOUD, "ssh", name, *_ALL, f"--command=cd {_FOLDER} && {command}", *place)
