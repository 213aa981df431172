"""Compiles the full-size configurations for TPU slices that are not here: memory a chip, and a bound on utilisation.

make aot-pods

One step of each is compiled as it would run on the slice, by libtpu's own compiler, from shapes alone. Memory is that
program's. Its operations and bytes are not: XLA counts the body of a loop once, and of a conditional the dearest
branch. So they are counted on programs whose layers are not a loop and whose masks do not change (`costs`).
"""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

#: The last full result, committed.
RESULTS = pathlib.Path(__file__).parent / "pod_programs.json"


class Slice(NamedTuple):
    """A TPU slice, as its maker describes it.

    Attributes:
      topology: libtpu's name of it.
      chips: of it.
      flops: bfloat16 operations a second and chip.
      bandwidth: bytes a second and chip, to its memory.
      memory: bytes of a chip.
    """

    topology: str
    chips: int
    flops: float
    bandwidth: float
    memory: float


#: From the pages "TPU v5e" and "TPU v6e" of Google Cloud's documentation.
SLICES = {
    "v5e-16": Slice("v5e:4x4", 16, 197e12, 819e9, 16 * 2**30),
    "v6e-8": Slice("v6e:2x4", 8, 918e12, 1640e9, 32 * 2**30),
}

#: Configuration to the shape of one example, and classes.
CASES: dict[str, tuple[tuple[int, ...], int]] = {
    "imagenet_resnet50_rigl": ((224, 224, 3), 1000),
    "imagenet_vit_gmp": ((224, 224, 3), 1000),
    "c4_gpt_gmp": ((2048,), 256),
    "c4_gpt_block_rigl": ((2048,), 256),
}
#: Examples that a chip holds at once, where the configuration is for more chips: `accumulate` follows.
HELD = {"c4_gpt_gmp": 1, "c4_gpt_block_rigl": 1}


class Cost(NamedTuple):
    """What a chip computes and moves in one step."""

    flops: float
    bytes: float


def main(argv: list[str] | None = None) -> int:
    """Compiles all cases, one after the other; returns 1 where one does not compile or does not fit."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark.pod_programs", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="one configuration")
    parser.add_argument("--slice", choices=SLICES, help="one slice")
    parser.add_argument("--out", metavar="PATH", help="write the result; rows of other cases in it stay")
    arguments = parser.parse_args(argv)
    done = []
    for name in [arguments.only] if arguments.only else CASES:
        for place in [arguments.slice] if arguments.slice else SLICES:
            row = compiled_row(name, place)
            print(json.dumps(row), flush=True)
            done.append(row)
            if arguments.out:
                _write(pathlib.Path(arguments.out), done)
    return int(any("error" in row or row["memory_share"] > 1 for row in done))


def compiled_row(name: str, place: str) -> dict[str, Any]:
    """Compiles one configuration for one slice.

    Args:
      name: a key of `CASES`.
      place: a key of `SLICES`.

    Returns:
      ``{config, slice, mesh, accumulate, memory_bytes, memory_share, flops, bytes, bound, …}``, per chip and step
      (the last three not where kernels compute, whose operations XLA does not count); or ``error``, what the
      compiler said.
    """
    begin, chip = time.perf_counter(), SLICES[place]
    row: dict[str, Any] = {"config": name, "slice": place}
    try:
        config = _config(name)
        mesh = slice_mesh(config, chip)
        if name in HELD:
            config.accumulate = config.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"] * HELD[name])
        row |= {"mesh": dict(mesh.shape), "accumulate": config.accumulate}
        memory = _compile(config, name, mesh).memory_analysis()
        row |= _memory(memory, chip)
        if config.model.get("sparse_compute") != "blocks":  # XLA counts no operation of a kernel
            cost = costs(config, lambda changed: _cost(_compile(changed, name, mesh)))
            row |= {"flops": cost.flops, "bytes": cost.bytes, "bound": utilisation_bound(cost, chip)}
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"[:600]
    return row | {"seconds": round(time.perf_counter() - begin)}


def utilisation_bound(cost: Cost, chip: Slice) -> float:
    """Bounds the share of a chip's peak that a step can reach: (F/peak) / max(F/peak, B/bandwidth).

    Transfers between chips are not in it, nor reading data, nor the operations that the matrix unit is not for.

    Args:
      cost: F and B of a chip.
      chip: its peak and bandwidth.

    Returns:
      A share in [0, 1].

    Example:
      >>> utilisation_bound(Cost(2.0, 4.0), Slice("", 1, 1.0, 1.0, 1.0))
      0.5
    """
    compute, transfer = cost.flops / chip.flops, cost.bytes / chip.bandwidth
    return compute / max(compute, transfer)


def costs(config: ConfigDict, measure: Callable[[ConfigDict], Cost]) -> Cost:
    """Counts a step between mask updates.

    The layers are laid out one after the other (`scan=False`), the masks are fixed, and images are augmented
    elsewhere: RandAugment computes each of its operations for every image. A batch in k parts is a loop too: with
    c(n) the cost of a step of n examples, it costs c(b) + (k − 1)·(c(2b) − c(b)) for parts of b examples.

    Args:
      config: of the run.
      measure: gives the cost of a configuration's step.

    Returns:
      The cost.
    """
    plain, parts = ConfigDict(config.to_dict()), config.accumulate
    plain.method, plain.accumulate, plain.augment = "static", 1, "none"
    if "scan" in plain.model:
        plain.model.scan = False
    plain.batch_size = config.batch_size // parts
    one = measure(plain)
    if parts == 1:
        return one
    plain.batch_size *= 2
    two = measure(plain)
    return Cost(*(a + (parts - 1) * (b - a) for a, b in zip(one, two, strict=True)))


def slice_mesh(config: ConfigDict, chip: Slice) -> Any:
    """Lays a slice's chips out as the configuration says.

    Args:
      config: of the run.
      chip: the slice.

    Returns:
      The mesh, of devices that are described and not here.
    """
    import jax
    from jax.experimental import topologies
    from jax.sharding import AxisType

    from experiments.devices.mesh import mesh_shape

    shape = mesh_shape(config.mesh, chip.chips)
    devices = topologies.get_topology_desc(platform="tpu", topology_name=chip.topology).devices
    return jax.make_mesh(
        shape, tuple(config.mesh), devices=devices, axis_types=(AxisType.Auto,) * len(shape)
    )  # as the runner lays them out


def _config(name: str) -> ConfigDict:
    from experiments.config.validation import validate_config

    config = importlib.import_module(f"configs.{name}").get_config()
    validate_config(config)
    return config


def _compile(config: ConfigDict, name: str, mesh: Any) -> Any:
    from experiments.run.abstract import abstract_step

    made = abstract_step(config, *CASES[name], mesh)
    return made.program.trace(*made[1:]).lower(lowering_platforms=("tpu",)).compile()


def _cost(program: Any) -> Cost:
    found = program.cost_analysis()
    return Cost(float(found["flops"]), float(found["bytes accessed"]))


def _memory(found: Any, chip: Slice) -> dict[str, Any]:
    """Arguments and results that share buffers count once."""
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    total = held + found.temp_size_in_bytes + found.generated_code_size_in_bytes
    return {
        "memory_bytes": total,
        "state_bytes": found.argument_size_in_bytes,
        "temporary_bytes": found.temp_size_in_bytes,
        "memory_share": round(total / chip.memory, 4),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Renders rows as the markdown table of docs/pods.md.

    Args:
      rows: from `compiled_row`.

    Returns:
      The table.

    Example:
      >>> print(table([{"config": "a", "slice": "v5e-16", "error": "no room"}]).splitlines()[-1])
      | `a` | v5e-16 | | | | | | | no room |
    """
    names = ("config", "slice", "data × fsdp × tensor", "parts of a batch", "GiB a chip", "of its memory",
             "TFLOP a step", "GB a step", "bound")  # fmt: skip
    rule = " | ".join(["---"] * len(names))
    return "\n".join([f"| {' | '.join(names)} |", f"| {rule} |", *map(_line, rows)])


def _line(row: dict[str, Any]) -> str:
    name = f"| `{row['config']}` | {row['slice']} |"
    if "error" in row:
        return f"{name} | | | | | | {row['error'].splitlines()[0]} |"
    sizes = " × ".join(map(str, row["mesh"].values()))
    memory = f"{row.get('accumulate', 1)} | {row['memory_bytes'] / 2**30:.1f} | {row['memory_share']:.0%}"
    if "bound" not in row:
        return f"{name} {sizes} | {memory} | – | – | – |"
    work = f"{row['flops'] / 1e12:.2f} | {row['bytes'] / 1e9:.1f} | {row['bound']:.0%}"
    return f"{name} {sizes} | {memory} | {work} |"


def _write(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    from experiments.benchmark.harness import write_text

    def key(row: dict[str, Any]) -> tuple[str, str]:
        return row["config"], row["slice"]

    before = json.loads(path.read_text())["rows"] if path.exists() else []
    known = {key(row): row for row in before} | {key(row): row for row in rows}
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu", "flax")},
        "rows": [known[one] for one in _order() if one in known],
    }
    write_text(str(path), json.dumps(result, indent=1) + "\n")


def _order() -> Iterator[tuple[str, str]]:
    return ((name, place) for name in CASES for place in SLICES)


if __name__ == "__main__":
    sys.exit(main())
