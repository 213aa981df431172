"""TPU slices by name: how many chips and hosts each has, and what Compute Engine and GKE call it."""

import math
from typing import NamedTuple

from experiments.errors import LaunchError


class Generation(NamedTuple):
    """What the slices of one generation share.

    Attributes:
      accelerator: prefix of Compute Engine's accelerator types.
      node: value of GKE's label ``cloud.google.com/gke-tpu-accelerator``.
      runtime: image of a TPU VM.
      slices: Google's number in the name → topology.
    """

    accelerator: str
    node: str
    runtime: str
    slices: dict[int, str]


_FLAT = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}

#: Multi-host slices of four chips a host. A v5p is counted in cores, of which a chip has two.
GENERATIONS: dict[str, Generation] = {
    "v5e": Generation("v5litepod", "tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite", _FLAT),
    "v6e": Generation("v6e", "tpu-v6e-slice", "v2-alpha-tpuv6e", _FLAT),
    "v5p": Generation(
        "v5p", "tpu-v5p-slice", "v2-alpha-tpuv5",
        {8: "2x2x1", 16: "2x2x2", 32: "2x2x4", 64: "2x4x4", 128: "4x4x4"},
    ),
}  # fmt: skip

#: Chips of a host.
HOST = 4


class TpuSlice(NamedTuple):
    """A slice.

    Attributes:
      name: as it was asked for, such as ``"v5e-16"``.
      chips: of it.
      hosts: of it, four chips each.
      topology: such as ``"4x4"``.
      accelerator: type of Compute Engine and of xpk, such as ``"v5litepod-16"``.
      node: GKE's label of its nodes.
      runtime: image of its VMs.
    """

    name: str
    chips: int
    hosts: int
    topology: str
    accelerator: str
    node: str
    runtime: str


def tpu_slice(name: str) -> TpuSlice:
    """Finds a slice.

    Args:
      name: generation and Google's number: ``"v5e-16"`` (also ``"v5litepod-16"``), ``"v6e-8"``, ``"v5p-64"``.

    Returns:
      The slice.

    Raises:
      LaunchError: an unknown one.

    Example:
      >>> tpu_slice("v5e-16").hosts, tpu_slice("v5p-64").chips
      (4, 32)
    """
    kind, _, number = name.replace("v5litepod", "v5e").partition("-")
    found = GENERATIONS.get(kind)
    topology = found.slices.get(int(number)) if found and number.isdecimal() else None
    if topology is None:
        known = ", ".join(f"{one}-{n}" for one, of in GENERATIONS.items() for n in of.slices)
        raise LaunchError(f"--slice is {name!r}: choose one of {known}.")
    chips = math.prod(map(int, topology.split("x")))
    accelerator = f"{found.accelerator}-{number}"
    return TpuSlice(name, chips, max(1, chips // HOST), topology, accelerator, found.node, found.runtime)
