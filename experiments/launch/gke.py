"""TPU slices on GKE: an `xpk workload create` command, or a JobSet manifest for `kubectl apply` without xpk."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.command import FAILED
from experiments.launch.names import at_least, label, one_line, one_of
from experiments.launch.plan import Plan
from experiments.launch.slices import HOST, TpuSlice
from experiments.launch.training import shell_command, training_command

#: Where capacity comes from: xpk's flags, and of a manifest the node labels that ask for it.
CAPACITY = ("any", "on-demand", "spot", "flex")
_NODES = {"spot": {"cloud.google.com/gke-spot": "true"}, "flex": {"cloud.google.com/gke-flex-start": "true"}}


class Workload(NamedTuple):
    """A run on one TPU slice of a GKE cluster.

    Attributes:
      name: of the workload.
      slice: what it runs on.
      image: container image with this checkout, its extras ``[experiments,tpu]``, and the checkout as its folder.
      restarts: times that the whole slice is started again when a host ends with a status that is no refusal.
      grace: seconds from SIGTERM to SIGKILL; a chunk and a checkpoint must fit in.
      capacity: one of `CAPACITY`.
    """

    name: str
    slice: TpuSlice
    image: str
    restarts: int = 10
    grace: int = 120
    capacity: str = "any"


def xpk_plan(
    run: Workload,
    arguments: Sequence[str],
    *,
    cluster: str,
    project: str = "",
    zone: str = "",
    priority: str = "medium",
) -> Plan:
    """Submits a run with xpk, to a cluster that xpk made.

    xpk starts a workload again after exit statuses 42 and 127 to 255 alone: what a kill, a preemption or a dead host
    leaves (134, 137, 143), and not the 2 of a run that was refused.

    Args:
      run: what to run.
      arguments: of `experiments.train`.
      cluster: its name.
      project: of Google Cloud; empty for gcloud's own setting.
      zone: likewise.
      priority: in the cluster's queue.

    Returns:
      The plan.

    Raises:
      LaunchError: an option that xpk would not take.
    """
    check(run)
    one_of("priority", priority, ("very-low", "low", "medium", "high", "very-high"))
    command = [
        "xpk", "workload", "create",
        f"--workload={run.name}",
        f"--cluster={label('cluster', cluster)}",
        f"--tpu-type={run.slice.accelerator}",
        "--num-slices=1",
        f"--docker-image={run.image}",
        f"--command={shell_command(arguments)}",
        f"--priority={priority}",
        f"--max-restarts={run.restarts}",
        f"--termination-grace-period-seconds={run.grace}",
    ]  # fmt: skip
    if run.capacity != "any":
        command.append(f"--{run.capacity}")
    place = [f"--{name}={one_line(name, value)}" for name, value in _given(project, zone)]
    of = [f"--workload={run.name}", f"--cluster={cluster}", *place]
    return Plan((tuple(command + place),), afterwards=(("xpk", "workload", "delete", *of),))


def _given(project: str, zone: str) -> list[tuple[str, str]]:
    return [(name, value) for name, value in (("project", project), ("zone", zone)) if value]


def jobset_plan(
    run: Workload, arguments: Sequence[str], *, claim: str, mount: str = "/shared", queue: str = "", file: str = ""
) -> Plan:  # fmt: skip
    """Applies a manifest, on a cluster with the JobSet controller.

    Args:
      run: what to run.
      arguments: of `experiments.train`; the workdir lies below `mount`.
      claim: a PersistentVolumeClaim that many hosts may write, such as one of Filestore or of Cloud Storage.
      mount: where each host sees it.
      queue: Kueue's local queue; empty where there is none.
      file: of the manifest; empty for ``NAME.yaml``.

    Returns:
      The plan.

    Raises:
      LaunchError: an option that Kubernetes would not take.
    """
    import yaml

    manifest = jobset(run, arguments, claim=claim, mount=mount, queue=queue)
    text = yaml.safe_dump(manifest, sort_keys=False, width=110)
    path = one_line("file", file) if file else f"{run.name}.yaml"
    apply, delete = (("kubectl", verb, "-f", path) for verb in ("apply", "delete"))
    logs = ("kubectl", "logs", "-f", "-l", f"jobset.sigs.k8s.io/jobset-name={run.name}", "--prefix")
    return Plan((apply,), files=((path, text),), afterwards=(logs, delete))


def jobset(
    run: Workload, arguments: Sequence[str], *, claim: str, mount: str = "/shared", queue: str = ""
) -> dict[str, Any]:
    """Makes the JobSet: one Job a slice, one pod a host, all started again together.

    Args:
      run: what to run.
      arguments: of `experiments.train`.
      claim: see `jobset_plan`.
      mount: likewise.
      queue: likewise.

    Returns:
      The manifest, as YAML would hold it.

    Raises:
      LaunchError: see `jobset_plan`.
    """
    check(run)
    labels = {"labels": {"kueue.x-k8s.io/queue-name": label("queue", queue, 63)}} if queue else {}
    # A run that was refused would be refused again: it ends the set, and anything else starts it again.
    refused = {"containerName": "train", "operator": "In", "values": [FAILED]}
    job = {
        "parallelism": run.slice.hosts,
        "completions": run.slice.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": refused}]},
        "template": {"spec": _pod(run, arguments, label("claim", claim, 63), one_line("mount", mount))},
    }
    # One pod a node pool, which is a slice: the pods of one slice must not lie on two.
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": run.name, **labels, "annotations": exclusive},
        "spec": {
            "failurePolicy": {
                "maxRestarts": run.restarts,
                "rules": [
                    {"name": "refused", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
                ],
            },
            "replicatedJobs": [{"name": "slice", "replicas": 1, "template": {"spec": job}}],
        },
    }


def _pod(run: Workload, arguments: Sequence[str], claim: str, mount: str) -> dict[str, Any]:
    chips = {"google.com/tpu": min(HOST, run.slice.chips)}
    nodes = {
        "cloud.google.com/gke-tpu-accelerator": run.slice.node,
        "cloud.google.com/gke-tpu-topology": run.slice.topology,
        **_NODES.get(run.capacity, {}),
    }
    container = {
        "name": "train",
        "image": run.image,
        "command": list(training_command(arguments)),
        "ports": [{"containerPort": 8471}, {"containerPort": 8482}],  # the chips', and JAX's coordinator's
        "resources": {"requests": chips, "limits": dict(chips)},  # YAML would write one as a reference
        "volumeMounts": [{"name": "shared", "mountPath": mount}],
    }
    return {
        "nodeSelector": nodes,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": run.grace,
        "containers": [container],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": claim}}],
    }


def check(run: Workload) -> None:
    """Refuses what neither xpk nor Kubernetes would take.

    Raises:
      LaunchError: it is.
    """
    label("name", run.name)
    one_line("image", run.image)
    at_least("restarts", run.restarts, 0)
    at_least("grace", run.grace)
    one_of("capacity", run.capacity, CAPACITY)
