"""The chips that `make aot` compiles for, described to the compilers without the chips."""

from typing import Any

#: TPU topologies by name.
TPUS = {"v5e": "v5e:2x2", "v6e": "v6e:2x2"}

_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: {memory}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 minor: 0 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "NVIDIA {name}"
"""

#: What the compiler reads of a GPU: bandwidth in bytes a second and memory in bytes tell the two apart.
GPUS = {
    "H100": _HOPPER.format(name="H100", bandwidth=3_350_000_000_000, memory=85_000_000_000),
    "H200": _HOPPER.format(name="H200", bandwidth=4_800_000_000_000, memory=150_000_000_000),
}


def target_device(chip: str) -> Any:
    """Gives a device of a chip that is not here, for lowering and compiling.

    Args:
      chip: a key of `TPUS` or `GPUS`.

    Returns:
      The device.

    Raises:
      KeyError: another chip.
      RuntimeError: its compiler is not installed (what JAX says of it).
    """
    from jax.experimental import topologies

    if chip in TPUS:
        return topologies.get_topology_desc(platform="tpu", topology_name=TPUS[chip]).devices[0]
    return topologies.get_topology_desc(
        platform="cuda", topology_name=chip.lower(), topology="1x1x1", target_config=GPUS[chip]
    ).devices[0]
