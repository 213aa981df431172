"""Launches one run of `experiments.train` on a pod, a cluster or a machine of several GPUs; shows how, or does it.

python -m experiments.launch slurm --nodes=2 --gpus=8 -- --config=… --workdir=…

What comes after the two dashes is for `experiments.train`, and is checked first: the configuration, and whether its
mesh and batch fit the devices. Without --run the exact commands and manifests are printed, as a shell script.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from experiments.command import FAILED
from experiments.config.help import wrapped
from experiments.errors import error_text
from experiments.launch import gke, machine, on_ray, queued, slurm
from experiments.launch.plan import Plan, carry_out, script
from experiments.launch.slices import GENERATIONS, tpu_slice
from experiments.launch.training import check_training
from sparsejax.errors import SparsejaxError

#: ``(options, arguments of the training command) -> (plan, devices)``
Build = Callable[[argparse.Namespace, Sequence[str]], tuple[Plan, int]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    options, arguments = make_parser().parse_args(words[:cut]), words[cut + 1 :]
    try:
        plan, devices = options.build(options, arguments)
        if not options.unchecked:
            check_training(arguments, devices)
        if not options.run:
            print(script(plan))
            return 0
        return carry_out(plan)
    except SparsejaxError as error:
        print(error_text(error), file=sys.stderr)
        return FAILED


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser: a subcommand a place."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.launch", description=wrapped(__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--run", action="store_true", help="do it, instead of printing it")
    shared.add_argument(
        "--unchecked", action="store_true", help="the configuration lies elsewhere: check nothing"
    )
    places = parser.add_subparsers(required=True, metavar="PLACE")
    for name, (says, add, build) in PLACES.items():
        one = places.add_parser(name, help=says, description=says, parents=[shared])
        add(one)
        one.set_defaults(build=build)
    return parser


def _add_slice(parser: argparse.ArgumentParser, name: str = "sparsejax") -> None:
    known = "; ".join(f"{one}-{{{','.join(map(str, of.slices))}}}" for one, of in GENERATIONS.items())
    parser.add_argument("--slice", required=True, help=known)
    parser.add_argument("--name", default=name, help="of the launch (%(default)s)")


def _add_workload(parser: argparse.ArgumentParser) -> None:
    _add_slice(parser)
    parser.add_argument("--image", required=True, help="container image that holds this checkout, installed")
    parser.add_argument("--restarts", type=int, default=10, help="of the slice, after a kill (%(default)s)")
    parser.add_argument("--grace", type=int, default=120, help="seconds to write a checkpoint (%(default)s)")
    parser.add_argument("--capacity", default="any", help=", ".join(gke.CAPACITY))


def _add_xpk(parser: argparse.ArgumentParser) -> None:
    _add_workload(parser)
    parser.add_argument("--cluster", required=True, help="made by xpk")
    parser.add_argument("--project", default="")
    parser.add_argument("--zone", default="")
    parser.add_argument("--priority", default="medium")


def _add_jobset(parser: argparse.ArgumentParser) -> None:
    _add_workload(parser)
    parser.add_argument("--claim", required=True, help="a PersistentVolumeClaim that all hosts may write")
    parser.add_argument("--mount", default="/shared", help="where they see it (%(default)s)")
    parser.add_argument("--queue", default="", help="Kueue's local queue")
    parser.add_argument("--file", default="", help="of the manifest (NAME.yaml)")


def _add_queued(parser: argparse.ArgumentParser) -> None:
    _add_slice(parser)
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", default="")
    parser.add_argument("--capacity", default="on-demand", help=", ".join(queued.CAPACITY))
    parser.add_argument("--runtime", default="", help="image of the VMs; the generation's own")
    parser.add_argument("--stages", default=",".join(queued.STAGES), help="of %(default)s")


def _add_slurm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", default="sparsejax", help="of the job (%(default)s)")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=8, help="of each node, a process each (%(default)s)")
    parser.add_argument("--cpus", type=int, default=8, help="of each process (%(default)s)")
    parser.add_argument("--time", default="24:00:00", help="limit (%(default)s)")
    parser.add_argument("--partition", default="")
    parser.add_argument("--account", default="")
    parser.add_argument(
        "--warning", type=int, default=180, help="seconds to write a checkpoint (%(default)s)"
    )
    parser.add_argument("--setup", default="", help="a line of shell before the run")
    parser.add_argument("--extra", action="append", default=[], help="an option of sbatch; may be repeated")
    parser.add_argument("--file", default="", help="of the script (NAME.sbatch)")


def _add_ray(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", required=True, help="of the dashboard, http://HOST:8265")
    parser.add_argument("--slice", default="", help="a TPU slice, instead of --hosts and --gpus")
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=8, help="of each host (%(default)s)")
    parser.add_argument("--pack", action="store_true", help="processes may share a machine")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpus", type=int, required=True, help="the first so many; 0 without GPUs")
    parser.add_argument("--processes", type=int, default=1, help="1, or one a GPU (%(default)s)")


def _workload(options: argparse.Namespace) -> gke.Workload:
    return gke.Workload(
        options.name,
        tpu_slice(options.slice),
        options.image,
        options.restarts,
        options.grace,
        options.capacity,
    )


def _xpk(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[Plan, int]:
    run = _workload(options)
    more = {name: getattr(options, name) for name in ("cluster", "project", "zone", "priority")}
    return gke.xpk_plan(run, arguments, **more), run.slice.chips


def _jobset(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[Plan, int]:
    run = _workload(options)
    more = {name: getattr(options, name) for name in ("claim", "mount", "queue", "file")}
    return gke.jobset_plan(run, arguments, **more), run.slice.chips


def _queued(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[Plan, int]:
    place = tpu_slice(options.slice)
    resource = queued.Queued(
        options.name, place, options.zone, options.project, options.capacity, options.runtime
    )
    return queued.queued_plan(resource, arguments, options.stages.split(",")), place.chips


def _slurm(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[Plan, int]:
    fields = {name: getattr(options, name) for name in slurm.Job._fields if name != "extra"}
    job = slurm.Job(**fields, extra=tuple(options.extra))
    return slurm.slurm_plan(job, arguments, options.file), job.nodes * job.gpus


def _ray(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[Plan, int]:
    hosts = on_ray.Hosts(options.hosts, options.gpus, options.slice, options.pack)
    return on_ray.ray_plan(options.address, hosts, arguments), hosts.devices


def _machine(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[Plan, int]:
    plan = machine.machine_plan(arguments, gpus=options.gpus, processes=options.processes)
    return plan, max(options.gpus, options.processes)


#: Name to what it is, what adds its options, and what builds its plan.
PLACES: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Build]] = {
    "xpk": ("a TPU slice on GKE, through xpk", _add_xpk, _xpk),
    "jobset": ("a TPU slice on GKE, by a JobSet manifest", _add_jobset, _jobset),
    "queued": ("a TPU slice on Compute Engine, by a queued resource", _add_queued, _queued),
    "ray": ("a Ray cluster, of GPUs or TPU hosts", _add_ray, _ray),
    "slurm": ("a GPU cluster under SLURM", _add_slurm, _slurm),
    "machine": ("this machine, with several GPUs", _add_machine, _machine),
}
