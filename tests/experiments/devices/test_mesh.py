"""Which axes a layout cuts, what follows its parameter, and which configurations no mesh can serve."""

import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

import sparsejax
from experiments.devices.hosts import data_share
from experiments.devices.mesh import batch_sharding, check_batch, make_mesh, param_specs
from experiments.errors import DeviceError
from experiments.run.placing import state_shardings
from experiments.run.state import TrainState

AXES = ("data", "fsdp", "tensor")


def _mesh(*sizes):
    return AbstractMesh(sizes, AXES)


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("block_0/attention/query/kernel", (64, 4, 16), P("fsdp", "tensor", None)),
        ("block_0/attention/out/kernel", (4, 16, 64), P("tensor", None, "fsdp")),
        ("block_0/mlp/up/kernel", (64, 256), P("fsdp", "tensor")),
        ("block_0/mlp/down/kernel", (256, 64), P("tensor", "fsdp")),
        ("blocks/mlp/up/kernel", (12, 64, 256), P(None, "fsdp", "tensor")),  # stacked layers stay whole
        ("dense_0/kernel", (64, 300), P("fsdp", "tensor")),
        ("dense_1/kernel", (300, 100), P("tensor", "fsdp")),
        ("embedding/embedding", (256, 64), P("tensor", "fsdp")),
        ("head/kernel", (64, 10), P("fsdp", "tensor")),
        ("stage_1_block_0/conv_0/kernel", (3, 3, 16, 32), P(None, None, "fsdp", "tensor")),
        ("positions", (128, 64), P("fsdp", None)),
        ("block_0/attention/query/bias", (4, 16), P()),
        ("norm/scale", (64,), P()),
        ("odd/kernel", (7, 9), P(None, None)),
    ],
)
def test_layouts(path, shape, spec):
    params = {path: jax.ShapeDtypeStruct(shape, jnp.float32)}
    assert param_specs(params, _mesh(1, 2, 2)) == {path: spec}
    alone = param_specs(params, _mesh(4, 1, 1))[path]
    assert set(alone) <= {None}


def _state(mesh):
    params = {
        "a": {"kernel": jnp.ones((64, 8)), "bias": jnp.ones(8)},
        "conv": {"kernel": jnp.ones((3, 3, 4, 4))},
    }
    channels = {"conv/kernel": sparsejax.Override(pattern=sparsejax.patterns.Channel("output"))}
    tx = sparsejax.gmp(optax.adam(0.1), sparsity=0.5, end_step=2, overrides=channels)
    opt_state = tx.init(params)
    state = TrainState(params, {"mean": jnp.ones(8)}, opt_state, params, jnp.zeros(2, int), jnp.int32(0))
    return state, state_shardings(state, mesh, population=False)


def test_masks_moments_and_averages_lie_as_their_parameters_do():
    state, places = _state(_mesh(1, 4, 2))
    adam = places.opt_state.inner_state[0]
    for where in (places.params, places.ema, adam.mu, adam.nu):
        assert where["a"]["kernel"].spec == P("fsdp", "tensor")
        assert where["a"]["bias"].spec == P()
        assert where["conv"]["kernel"].spec == P(None, None, "fsdp", "tensor")
    assert state.opt_state.masks.bits["a"]["kernel"].shape == (8, 8)
    assert places.opt_state.masks.bits["a"]["kernel"].spec == P("fsdp", "tensor")
    assert state.opt_state.masks.bits["conv"]["kernel"].shape[:3] == (1, 1, 1)
    assert places.opt_state.masks.bits["conv"]["kernel"].spec[:3] == (None, None, None)  # one bit a channel
    assert {leaf.spec for leaf in jax.tree.leaves((places.batch_stats, places.kept, places.step))} == {P()}


def test_bits_that_the_devices_do_not_divide_are_replicated():
    mesh = _mesh(1, 16, 1)
    places = _state(mesh)[1]
    assert places.params["a"]["kernel"].spec == P("fsdp", None)
    assert places.opt_state.masks.bits["a"]["kernel"].spec == P(None, None)


def test_a_population_is_cut_along_its_members():
    state = TrainState({"w": jnp.ones((8, 3, 3))}, {}, (), (), jnp.ones((8, 1)), jnp.int32(0))
    places = state_shardings(state, _mesh(2, 2, 2), population=True)
    assert places.params["w"].spec == places.kept.spec == P(AXES)
    assert places.step.spec == P()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((-1, -1, 1), "one -1"),
        ((-1, 2, 1), "one -1, that divides evenly"),
        ((2, 1, 1), "2 devices, but there are 1"),
    ],
)
def test_meshes_that_are_refused(sizes, words):
    with pytest.raises(DeviceError, match=words):
        make_mesh(dict(zip(AXES, sizes, strict=True)))


def test_batches_that_the_devices_cannot_share_are_refused():
    sharding = batch_sharding(_mesh(2, 2, 2), population=False)
    check_batch("batch_size", 12, sharding)
    check_batch("batch_size", 16, sharding, parts=4)
    with pytest.raises(DeviceError, match="batch_size is 6, which data × fsdp = 4 devices"):
        check_batch("batch_size", 6, sharding)
    with pytest.raises(DeviceError, match=r"12 in 2 parts.*multiple of 8"):
        check_batch("batch_size", 12, sharding, parts=2)
    check_batch("batch_size", 7, batch_sharding(_mesh(2, 2, 2), population=True))


class _Device(NamedTuple):
    process_index: int
    number: int


def _sharding(rows):
    """Devices of processes as (process, first row, last row) of a batch."""
    devices = {_Device(process, i): (slice(first, last),) for i, (process, first, last) in enumerate(rows)}
    mesh = types.SimpleNamespace(shape={"data": 2, "fsdp": 1, "tensor": 2})
    return types.SimpleNamespace(devices_indices_map=lambda shape: devices, mesh=mesh)


@pytest.mark.parametrize(
    ("rows", "share"),
    [
        ([(0, 0, 4), (1, 4, 8)], (0, 2)),
        ([(0, 4, 8), (1, 0, 4)], (1, 2)),  # processes need not lie in order
        ([(0, 0, 2), (0, 2, 4), (1, 4, 6), (1, 6, 8)], (0, 2)),
        ([(0, 0, 8), (1, 0, 8)], (0, 1)),  # a tensor layout over both: the same examples
        ([(2, 0, 4), (3, 0, 4), (0, 4, 8), (1, 4, 8)], (1, 2)),
    ],
)
def test_each_process_reads_the_examples_of_its_devices(rows, share):
    assert data_share(_sharding(rows), 8) == share


def test_processes_that_share_a_part_of_their_examples_are_refused():
    with pytest.raises(DeviceError, match="share some examples and not others"):
        data_share(_sharding([(0, 0, 4), (0, 4, 8), (1, 4, 8)]), 8)
