"""xpk's command has xpk's flags; the JobSet has the fields of its schema, and the slice's numbers in them."""

import shlex

import pytest
import yaml

from experiments.errors import LaunchError
from experiments.launch import gke
from experiments.launch.slices import GENERATIONS, tpu_slice
from tests.experiments.launch.documented import JOBSET, XPK_CREATE, XPK_DELETE, flags, misfits

TRAIN = ["--config=configs/imagenet_resnet50_rigl.py", "--workdir=/shared/runs/a b", "--config.mesh.data=-1"]
RUN = gke.Workload("rn50", tpu_slice("v5e-16"), "europe-docker.pkg.dev/p/r/sparsejax:1")


def _manifest(run=RUN, **options):
    plan = gke.jobset_plan(run, TRAIN, claim="shared-disk", **options)
    (name, text), *rest = plan.files
    assert not rest
    assert plan.commands == (("kubectl", "apply", "-f", name),)
    return yaml.safe_load(text)


@pytest.mark.parametrize("name", [f"{one}-{n}" for one, of in GENERATIONS.items() for n in of.slices])
def test_every_field_of_the_manifest_is_in_the_schema(name):
    wanted = tpu_slice(name)
    manifest = _manifest(RUN._replace(slice=wanted, capacity="spot"), queue="tpus")
    assert misfits(manifest, JOBSET) == []
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    container = pod["containers"][0]
    # A pod a host, which holds all chips of it; together they are the slice.
    assert job["parallelism"] == job["completions"] == wanted.hosts
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert wanted.hosts * container["resources"]["limits"]["google.com/tpu"] == wanted.chips
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == wanted.topology
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert job["completionMode"] == "Indexed"
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")  # the set restarts, no pod by itself


def test_the_schema_sees_what_does_not_fit():
    manifest = _manifest()
    assert misfits(manifest, JOBSET) == []
    job = manifest["spec"]["replicatedJobs"][0]
    job["template"]["spec"]["paralelism"] = 4
    job["replicas"] = "1"
    del job["template"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert [found.rpartition(".")[2] for found in misfits(manifest, JOBSET)] == [
        "replicas: '1' is no int", "containers[0]: lacks image", "paralelism: unknown",
    ]  # fmt: skip


def test_the_pod_runs_the_training_command_where_the_disk_is():
    manifest = _manifest(mount="/mnt/disk")
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["command"] == ["python", "-m", "experiments.train", *TRAIN]
    assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/mnt/disk"}]
    assert pod["volumes"] == [{"name": "shared", "persistentVolumeClaim": {"claimName": "shared-disk"}}]
    assert pod["terminationGracePeriodSeconds"] == 120
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 10
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert "labels" not in manifest["metadata"]


def test_xpk_has_every_flag_and_reads_the_command_back():
    plan = gke.xpk_plan(RUN._replace(capacity="flex"), TRAIN, cluster="tpus", project="p", zone="us-west4-a")
    (command,) = plan.commands
    assert command[:3] == ("xpk", "workload", "create")
    assert flags(command) <= XPK_CREATE
    assert {"workload", "cluster", "command", "tpu-type"} <= flags(command)  # those that xpk requires
    given = dict(word[2:].split("=", 1) for word in command[3:] if "=" in word)
    assert given["tpu-type"] == "v5litepod-16"
    assert shlex.split(given["command"]) == ["python", "-m", "experiments.train", *TRAIN]
    assert given["max-restarts"] == "10"
    assert "--flex" in command
    (delete,) = plan.afterwards
    assert flags(delete) <= XPK_DELETE


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"name": "RN50"}, {}, r"--name is 'RN50': it takes lower-case"),
        ({"name": "a" * 41}, {}, "at most 40"),
        ({"image": ""}, {}, "--image is ''"),
        ({"restarts": -1}, {}, "--restarts is -1"),
        ({"grace": 0}, {}, "--grace is 0"),
        ({"capacity": "cheap"}, {}, "choose one of any, on-demand, spot, flex"),
        ({}, {"claim": "Disk 1"}, "--claim is 'Disk 1'"),
        ({}, {"claim": "disk", "queue": "a/b"}, "--queue is 'a/b'"),
        ({}, {"claim": "disk", "mount": "/a\n"}, "--mount is"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused(changes, options, words):
    with pytest.raises(LaunchError, match=words):
        gke.jobset(RUN._replace(**changes), TRAIN, **{"claim": "disk", **options})


def test_what_xpk_would_refuse_is_refused():
    with pytest.raises(LaunchError, match="--priority is 'urgent': choose one of very-low"):
        gke.xpk_plan(RUN, TRAIN, cluster="tpus", priority="urgent")
    with pytest.raises(LaunchError, match="--slice is 'v5e-12': choose one of v5e-4"):
        tpu_slice("v5e-12")
    with pytest.raises(LaunchError, match="--slice is 'H100'"):
        tpu_slice("H100")
