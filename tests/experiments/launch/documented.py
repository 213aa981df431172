"""What the documentation of each launcher allows, as tables: which flags a command has, which fields a manifest."""

import re

#: xpk 1.x, `src/xpk/parser/workload.py` and `common.py` of github.com/AI-Hypercomputer/xpk (June 2026).
XPK_CREATE = {
    "workload", "cluster", "command", "tpu-type", "device-type", "storage", "num-nodes", "num-slices", "scheduler",
    "docker-name", "docker-image", "docker-image-pull-secret", "base-docker-image", "script-dir", "priority",
    "max-restarts", "restart-on-exit-codes", "ttl-seconds-after-finished", "termination-grace-period-seconds",
    "env", "env-file", "on-demand", "reservation", "spot", "flex", "project", "zone", "dry-run", "skip-validation",
    "output-manifest-file", "enable-debug-logs", "debug-dump-gcs", "deploy-stacktrace-sidecar",
}  # fmt: skip
XPK_DELETE = {
    "workload",
    "cluster",
    "filter-by-job",
    "filter-by-status",
    "force",
    "project",
    "zone",
    "dry-run",
}

#: `gcloud compute tpus queued-resources …`, cloud.google.com/sdk/gcloud/reference (May 2025).
_WIDE = {"project", "format", "quiet", "verbosity"}
GCLOUD = {
    "create": {
        "zone", "runtime-version", "accelerator-type", "topology", "type", "node-id", "node-count", "node-prefix",
        "async", "boot-disk", "data-disk", "description", "guaranteed", "internal-ips", "labels", "metadata",
        "metadata-from-file", "network", "range", "reserved", "scopes", "service-account", "shielded-secure-boot",
        "spot", "subnetwork", "tags", "valid-after-duration", "valid-until-duration",
    } | _WIDE,
    "describe": {"zone"} | _WIDE,
    "scp": {"batch-size", "compress", "dry-run", "node", "plain", "recurse", "scp-flag", "worker", "zone"} | _WIDE,
    "ssh": {"batch-size", "command", "dry-run", "node", "ssh-flag", "worker", "zone", "output-directory"} | _WIDE,
    "delete": {"zone", "force", "async"} | _WIDE,
}  # fmt: skip

#: slurm.schedmd.com/sbatch.html and srun.html, 25.05.
SBATCH = {
    "account", "constraint", "cpus-per-task", "exclusive", "gpus-per-node", "job-name", "mem", "nodes",
    "ntasks-per-node", "open-mode", "output", "partition", "qos", "requeue", "signal", "time",
}  # fmt: skip
SRUN = {"kill-on-bad-exit", "gpu-bind", "ntasks", "ntasks-per-node", "cpu-bind", "label"}

_LABELS = {"*": str}
#: JobSet v1alpha2 (config/components/crd/bases of kubernetes-sigs/jobset) and the Kubernetes fields below it.
JOBSET = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "namespace": str, "labels": _LABELS, "annotations": _LABELS},
    "spec": {
        "failurePolicy": {
            "maxRestarts": int,
            "restartStrategy": str,
            "rules": [{"name": str, "action": str, "onJobFailureReasons": [str], "targetReplicatedJobs": [str]}],
        },
        "successPolicy": {"operator": str},
        "suspend": bool,
        "ttlSecondsAfterFinished": int,
        "replicatedJobs": [{
            "name": str,
            "replicas": int,
            "template": {"metadata": {"annotations": _LABELS}, "spec": {
                "parallelism": int,
                "completions": int,
                "completionMode": str,
                "backoffLimit": int,
                "podFailurePolicy": {"rules": [{
                    "action": str,
                    "onExitCodes": {"containerName": str, "operator": str, "values": [int]},
                }]},
                "template": {"metadata": {"annotations": _LABELS}, "spec": {
                    "nodeSelector": _LABELS,
                    "restartPolicy": str,
                    "terminationGracePeriodSeconds": int,
                    "hostNetwork": bool,
                    "dnsPolicy": str,
                    "containers": [{
                        "name": str,
                        "image": str,
                        "command": [str],
                        "args": [str],
                        "env": [{"name": str, "value": str}],
                        "ports": [{"containerPort": int, "name": str}],
                        "resources": {"requests": {"*": int}, "limits": {"*": int}},
                        "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
                    }],
                    "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str, "readOnly": bool}}],
                }},
            }},
        }],
    },
}  # fmt: skip
_REQUIRED = {
    "replicatedJobs": ("name", "template"),
    "containers": ("name", "image"),
    "volumes": ("name",),
    "volumeMounts": ("name", "mountPath"),
    "ports": ("containerPort",),
    "failurePolicy.rules": ("name", "action"),
    "podFailurePolicy.rules": ("action",),
    "onExitCodes": ("operator", "values"),
}


def misfits(value, schema, path=""):
    """Every field of a manifest that the schema has not, or that is of another type, and every one it lacks."""
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{path}: no list"]
        return [m for i, item in enumerate(value) for m in misfits(item, schema[0], f"{path}[{i}]")]
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{path}: no mapping"]
        where = re.sub(r"\[\d+\]", "", path)
        needed = next((names for end, names in _REQUIRED.items() if where.endswith(f".{end}")), ())
        found = [f"{path}: lacks {name}" for name in needed if name not in value]
        for name, item in value.items():
            below = schema.get(name, schema.get("*"))
            found += [f"{path}.{name}: unknown"] if below is None else misfits(item, below, f"{path}.{name}")
        return found
    return [] if type(value) is schema else [f"{path}: {value!r} is no {schema.__name__}"]


def flags(command):
    """The names of a command's flags."""
    found = set()
    for word in command:
        if word == "--":
            break
        if word.startswith("--"):
            found.add(word[2:].partition("=")[0])
    return found
