"""Calibration stage by stage: targets, stacks, shapes, sharding, memory, what each row counts, budgets in bytes."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import Override
from sparsejax.errors import CalibrationError, PathError, SparsityError
from sparsejax.params.paths import flatten_with_paths
from sparsejax.patterns import NM, Block
from sparsejax.post_training import (
    asymmetric_target,
    magnitude,
    prune_model,
    solve_sparsegpt,
    sparsegpt,
    wanda,
)
from sparsejax.post_training.sequential.row_weights import row_weights_of
from sparsejax.post_training.sequential.walk import Walk
from tests.compile_cache import WITHOUT, quick_flags
from tests.tracing.functions import conv, normal


@pytest.fixture(scope="module")
def network():
    params = {"b": {"kernel": normal(24, 6)}, "z": {"kernel": normal(16, 24), "bias": normal(24)}}

    def fn(p, x):
        return jax.nn.relu(x @ p["z"]["kernel"] + p["z"]["bias"]) @ p["b"]["kernel"]

    mixing = normal(8, 16)
    batches = [normal(100, 8, seed=i) @ mixing + 0.5 * normal(100, 16, seed=40 + i) for i in range(5)]
    return fn, params, batches


def hidden(p, x):
    return jax.nn.relu(x @ p["z"]["kernel"] + p["z"]["bias"])


def test_by_default_a_layer_aims_at_the_dense_outputs_on_the_dense_inputs(network):
    fn, params, batches = network
    pruned, _, layers = sparsegpt(fn, params, batches, sparsity=0.7)
    w, x = params["b"]["kernel"].T, jnp.concatenate(batches[:-1])
    dense, now = hidden(params, x), hidden(pruned, x)
    target = asymmetric_target(w, now.T @ now, dense.T @ now)
    expected = solve_sparsegpt(target, now.T @ now, sparsity=0.7).weights
    np.testing.assert_allclose(pruned["b"]["kernel"].T, expected, atol=2e-3)
    for rows, error in ((x, layers["b/kernel"].error), (batches[-1], layers["b/kernel"].held_out_error)):
        aim = fn(params, rows)
        share = jnp.sum((fn(pruned, rows) - aim) ** 2) / jnp.sum(aim**2)
        np.testing.assert_allclose(error, share, rtol=1e-3)


def test_asymmetric_targets_come_closer_to_the_dense_model(network):
    fn, params, batches = network
    loss = {}
    for targets in ("asymmetric", "symmetric"):
        pruned = sparsegpt(fn, params, batches, sparsity=0.7, targets=targets).params
        loss[targets] = float(jnp.mean((fn(pruned, batches[-1]) - fn(params, batches[-1])) ** 2))
    assert loss["asymmetric"] < 0.9 * loss["symmetric"]
    with pytest.raises(CalibrationError, match="choose 'asymmetric' or 'symmetric'"):
        sparsegpt(fn, params, batches, sparsity=0.7, targets="dense")


def stack(depth, width=8):
    """The same residual network scanned over a stack of kernels, and with each kernel by its name."""
    kernels = normal(depth, width, width) / 3

    def block(x, w):
        return x + jnp.tanh(x @ w)

    def scanned(p, x):
        return jax.lax.scan(lambda x, w: (block(x, w), None), x, p["layers"]["kernel"])[0]

    def named(p, x):
        for i in range(depth):
            x = block(x, p[f"layer_{i}"]["kernel"])
        return x

    separate = {f"layer_{i}": {"kernel": kernels[i]} for i in range(depth)}
    batches = [normal(60, width, seed=i) * jnp.exp(normal(width)) for i in range(3)]
    return (scanned, {"layers": {"kernel": kernels}}), (named, separate), batches


@pytest.mark.parametrize("sequential", [True, False])
def test_scanned_layers_are_solved_one_after_another_as_if_they_had_names(sequential):
    first, second, batches = stack(3)
    options = {"sparsity": 0.5, "sequential": sequential}
    scanned = sparsegpt(*first, batches, **options)
    named = sparsegpt(*second, batches, **options)
    for i in range(3):
        a = scanned.params["layers"]["kernel"][i]
        np.testing.assert_allclose(a, named.params[f"layer_{i}"]["kernel"], atol=1e-5)
        np.testing.assert_array_equal(
            scanned.masks["layers"]["kernel"][i], named.masks[f"layer_{i}"]["kernel"]
        )
    together = scanned.layers["layers/kernel"]
    errors = [layer.held_out_error for layer in named.layers.values()]
    assert min(errors) < together.held_out_error < max(errors)


def test_what_is_kept_does_not_grow_with_depth():
    kept = []
    for depth in (2, 6):
        _, (fn, params), batches = stack(depth, width=16)
        layers = sparsegpt(fn, params, batches, sparsity=0.5).layers
        kept.append(max(layer.kept_bytes for layer in layers.values()))
        assert all(layer.peak_bytes >= layer.kept_bytes for layer in layers.values())
    # The residual of three batches in two models, and Gram, cross, shift and two counts of one layer.
    bound = 2 * 3 * 60 * 16 * 4 + 3 * 16 * 16 * 4 + 2 * 4
    assert kept == [bound, bound]


def test_batches_of_several_shapes(network):
    fn, params, batches = network
    whole = sparsegpt(fn, params, batches, sparsity=0.5, held_out=batches[-1:])
    rows = jnp.concatenate(batches)
    uneven = [rows[:130], rows[130:333], rows[333:500]]
    parts = sparsegpt(fn, params, uneven, sparsity=0.5, held_out=batches[-1:])
    np.testing.assert_allclose(whole.params["b"]["kernel"], parts.params["b"]["kernel"], atol=2e-3)


def test_a_function_with_other_layers_for_another_shape_is_refused():
    def fn(p, x):
        return x @ p["a"] if len(x) < 60 else x @ p["b"]

    with pytest.raises(CalibrationError, match="has other layers than with the first"):
        sparsegpt(fn, {"a": normal(4, 4), "b": normal(4, 4)}, [normal(50, 4), normal(70, 4)], sparsity=0.5)


def test_layers_inside_loops_and_branches():
    params = {"again": normal(6, 6) / 3, "first": normal(6, 6) / 3}

    def fn(p, x):
        y = jax.lax.cond(jnp.sum(x) > -1e9, lambda x: jnp.tanh(x @ p["first"]), lambda x: x, x)
        return jax.lax.fori_loop(0, 3, lambda _, y: jnp.tanh(y @ p["again"]), y)

    batches = [normal(50, 6, seed=i) for i in range(3)]
    pruned, _, layers = sparsegpt(fn, params, batches, sparsity=0.5)
    assert {path: result.rows for path, result in layers.items()} == {"first": 100, "again": 300}
    x = jnp.concatenate(batches[:-1])
    expected = solve_sparsegpt(params["first"].T, x.T @ x, sparsity=0.5).weights.T
    np.testing.assert_allclose(pruned["first"], expected, atol=1e-4)


PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from sparsejax.post_training import sparsegpt

rng = np.random.default_rng(0)
params = {"a": rng.normal(size=(8, 16)), "b": rng.normal(size=(16, 4))}
params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
fn = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
batches = [jnp.asarray(rng.normal(size=(64, 8)), jnp.float32) for _ in range(4)]
alone = sparsegpt(fn, params, batches, sparsity=0.5)
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
params = jax.device_put(params, NamedSharding(mesh, P()))
batches = [jax.device_put(x, NamedSharding(mesh, P("data"))) for x in batches]
assert len(batches[0].devices()) == 4
together = sparsegpt(fn, params, batches, sparsity=0.5)
for name in params:
    np.testing.assert_allclose(alone.params[name], together.params[name], atol=1e-4)
    np.testing.assert_array_equal(alone.masks[name], together.masks[name])
print("summed")
"""


def test_batches_that_lie_on_four_devices():
    flags = {
        "XLA_FLAGS": f"{quick_flags()} --xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        **WITHOUT,
    }
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, env={**os.environ, **flags}, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "summed", done.stderr


def test_rows_of_weight_zero_are_as_if_they_were_not_there(network):
    fn, params, batches = network
    keep = np.arange(100) % 3 > 0

    def weights(p, x):
        return {"*": jnp.asarray(keep, jnp.float32)}

    some = sparsegpt(fn, params, batches, sparsity=0.5, row_weights=weights)
    without = sparsegpt(fn, params, [x[keep] for x in batches], sparsity=0.5)
    for name in ("b", "z"):
        np.testing.assert_allclose(some.params[name]["kernel"], without.params[name]["kernel"], atol=2e-3)
    assert some.layers["b/kernel"].rows == without.layers["b/kernel"].rows == 4 * keep.sum()
    np.testing.assert_allclose(
        some.layers["b/kernel"].held_out_error, without.layers["b/kernel"].held_out_error, rtol=1e-2
    )


def test_the_gradient_weighs_rows_by_what_the_result_reads():
    """A maximum over positions reads its winners only; their rows alone give the same weights."""
    params = {"kernel": normal(8, 6)}

    def fn(p, x):
        return jnp.max(x @ p["kernel"], axis=1)

    batches = [normal(30, 10, 8, seed=i) * jnp.exp(normal(8)) for i in range(4)]
    found = sparsegpt(fn, params, batches, sparsity=0.5, row_weights="gradient", damping=0.01)
    x = jnp.concatenate(batches[:-1])
    wins = jax.nn.one_hot(jnp.argmax(x @ params["kernel"], axis=1), 10).sum(1)  # (files, positions)
    gram = jnp.einsum("bp,bpi,bpj->ij", wins, x, x)
    expected = solve_sparsegpt(params["kernel"].T, gram, sparsity=0.5).weights.T
    np.testing.assert_allclose(found.params["kernel"], expected, atol=1e-3)
    plain = sparsegpt(fn, params, batches, sparsity=0.5).params
    aim = fn(params, batches[-1])
    assert jnp.sum((fn(found.params, batches[-1]) - aim) ** 2) < jnp.sum((fn(plain, batches[-1]) - aim) ** 2)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_gradient_at_convolutions_and_experts(groups):
    """Against the gradient by each row's own output, taken by hand."""
    params = {"conv": normal(3, 3, 4 // groups, 6), "experts": normal(2, 6, 5)}

    def parts(p, x):
        y = conv(x, p["conv"], groups)
        return y, jnp.stack([jnp.tanh(y), jnp.cos(y)])

    def fn(p, x):
        return jnp.sin(jnp.einsum("ebhwc,ecf->ebhwf", parts(p, x)[1], p["experts"])).sum((0, 1, 2, 3))

    x = normal(2, 5, 5, 4)
    walk = Walk(fn, params, [x], frozenset({0, 1}), paired=False)
    found = row_weights_of("gradient", walk, params, [x])[0]
    signs = jax.random.rademacher(jax.random.key(0), fn(params, x).shape, jnp.float32)

    def from_conv(y):
        read = jnp.stack([jnp.tanh(y), jnp.cos(y)])
        out = jnp.einsum("ebhwc,ecf->ebhwf", read, params["experts"])
        return jnp.sum(signs * jnp.sin(out).sum((0, 1, 2, 3)))

    slope = jax.grad(from_conv)(parts(params, x)[0]) ** 2
    by_group = slope.reshape(2, 5, 5, groups, -1).sum(-1)
    expected = jnp.moveaxis(by_group, -1, 0).reshape(groups, -1) if groups > 1 else by_group.reshape(-1)
    first, second = (found[i] for i in sorted(found))
    np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-6)
    out = jnp.einsum("ebhwc,ecf->ebhwf", parts(params, x)[1], params["experts"])
    rows = ((signs * jnp.cos(out)) ** 2).sum(-1).reshape(2, -1)
    np.testing.assert_allclose(second, rows, rtol=1e-4, atol=1e-6)


def test_bad_row_weights_are_refused(network):
    fn, params, batches = network

    def run(weights):
        return sparsegpt(fn, params, batches, sparsity=0.5, row_weights=weights)

    with pytest.raises(CalibrationError, match="choose None, 'gradient', or a function"):
        run("gradients")
    with pytest.raises(CalibrationError, match=r"'z/kernel' has 100 rows"):
        run(lambda p, x: {"z/*": jnp.ones(7)})
    with pytest.raises(CalibrationError, match="negative or not finite"):
        run(lambda p, x: {"z/*": -jnp.ones(100)})
    with pytest.raises(PathError, match="row_weights"):
        run(lambda p, x: {"y": jnp.ones(100)})
    with pytest.raises(CalibrationError, match=r"'z/kernel' has no calibration row.*weigh nothing"):
        run(lambda p, x: {"z/*": jnp.zeros(100)})
    with pytest.raises(CalibrationError, match=r"give \{path pattern: weights\}"):
        run(lambda p, x: jnp.ones(100))
    with pytest.raises(CalibrationError, match="'z/kernel' are no numbers"):
        run(lambda p, x: {"z/*": "many"})
    with pytest.raises(CalibrationError, match="row_weights=3: choose"):
        run(3)


def test_layers_are_ignored_by_path(network):
    fn, params, batches = network
    found = sparsegpt(fn, params, batches, sparsity=0.5, ignore=["b/*"])
    assert list(found.layers) == ["z/kernel"]
    np.testing.assert_array_equal(found.params["b"]["kernel"], params["b"]["kernel"])
    with pytest.raises(PathError, match="ignore: the path pattern 'head'"):
        sparsegpt(fn, params, batches, sparsity=0.5, ignore=["head"])


def stored(params, masks):
    total = 0
    for leaf, mask in zip(*(flatten_with_paths(t)[1] for t in (params, masks)), strict=True):
        total += leaf.nbytes if np.ndim(mask) == 0 else int(np.sum(mask)) * 4 + -(-mask.size // 8)
    return total


@pytest.mark.parametrize("max_bytes", [200, 500, 1200, 2300])
def test_a_target_in_bytes_is_met_and_used(network, max_bytes):
    fn, params, batches = network
    pruned, masks, _ = magnitude(fn, params, batches, max_bytes=max_bytes)
    used = stored(pruned, masks)
    assert used <= max_bytes
    if used < 4 * (16 * 24 + 24 * 6) + 66 + 96:  # not everything is kept: within two weights a layer
        assert used > max_bytes - 4 * 2 * 2
    narrow = magnitude(fn, params, batches, max_bytes=max_bytes, ignore="b/*") if max_bytes > 800 else None
    assert narrow is None or stored(narrow.params, narrow.masks) <= max_bytes


@pytest.mark.filterwarnings("ignore::sparsejax.post_training.CalibrationWarning")
@pytest.mark.parametrize("share", [0.3, 0.5, 0.77])
@pytest.mark.parametrize(
    ("prune", "options"),
    [
        (wanda, {}),
        (wanda, {"pattern": Block(2, 3)}),
        (magnitude, {"pattern": Block(2, 3)}),
        (magnitude, {"overrides": {"first": Override(sparsity=0.37)}}),
        (wanda, {"overrides": {"first": Override(sparsity=0.37)}}),
        (magnitude, {"overrides": {"first": Override(pattern=NM(2, 4))}}),
    ],
)
def test_a_target_in_bytes_holds_whatever_is_rounded(prune, options, share):
    """Row by row, matrix by matrix of a stack, block by block; a layer with N:M counts at its own sparsity."""
    params = {"first": normal(20, 30), "stack": normal(7, 30, 30) / 5, "depthwise": normal(3, 1, 30)}

    def fn(p, x):
        x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x @ p["first"], p["stack"])[0]
        layout = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(
            x, p["depthwise"], (1,), "SAME", dimension_numbers=layout, feature_group_count=30
        )

    if "pattern" in options:
        options = {**options, "ignore": ["depthwise"]}
    max_bytes = int(share * sum(leaf.nbytes for leaf in params.values()))
    found = prune(fn, params, [normal(4, 9, 20, seed=i) for i in range(2)], max_bytes=max_bytes, **options)
    # 15 blocks a row are a coarse grid.
    assert 0.75 * max_bytes < stored(found.params, found.masks) <= max_bytes
    if "overrides" in options:
        (path, override), *_ = options["overrides"].items()
        assert found.layers[path].sparsity == pytest.approx(override.sparsity or 0.5, abs=0.03)


def test_bytes_that_cannot_be_met_are_refused(network):
    fn, params, batches = network
    with pytest.raises(SparsityError, match="162 bytes are taken by what is not pruned"):
        magnitude(fn, params, batches, max_bytes=100)
    with pytest.raises(SparsityError, match="give one of them"):
        magnitude(fn, params, batches, max_bytes=1000, sparsity=0.5)
    with pytest.raises(SparsityError, match="0 layers are free"):
        magnitude(fn, params, batches, max_bytes=1000, pattern=NM(1, 2))


def test_wanda_keeps_the_dense_values(network):
    fn, params, batches = network
    pruned, masks, _ = wanda(fn, params, batches, sparsity=0.5)
    for name in ("b", "z"):
        mask = masks[name]["kernel"]
        np.testing.assert_array_equal(pruned[name]["kernel"], jnp.where(mask, params[name]["kernel"], 0))


def test_parameters_keep_their_dtype(network):
    fn, params, batches = network
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    batches = [x.astype(jnp.bfloat16) for x in batches]
    found = prune_model(fn, params, batches, solve=solve_sparsegpt, sparsity=0.5)
    assert found.params["b"]["kernel"].dtype == jnp.bfloat16
    assert 0 < found.layers["b/kernel"].held_out_error < 1
