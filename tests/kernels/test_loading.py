"""Every encoding of a sparse file goes into a form of the kernels: the same products, the file's own integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import export
from sparsejax.errors import KernelError
from sparsejax.kernels import Bitmap, BlockSparse, PackedNM, load_sparse, to_dense, unpack_bitmap, unpack_n_m
from sparsejax.parametrizations.integer_grid import is_quantized
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.patterns import NM
from sparsejax.post_training import quantize

SIZES = (64, 96)
UNPACK = {Bitmap: unpack_bitmap, PackedNM: unpack_n_m, BlockSparse: to_dense}


def pruned(layout: str) -> jax.Array:
    """A kernel that a file stores in that layout."""
    drawn = jax.random.normal(jax.random.key(0), SIZES)
    drawn = drawn + jnp.sign(drawn)  # none rounds to zero
    kept = {
        "dense": np.ones(SIZES, bool),
        "bitmask": jax.random.uniform(jax.random.key(1), SIZES) < 0.3,
        "n:m": NM(2, 4).select(jnp.abs(drawn), drawn.size // 2, AxisRoles((0,), (1,))),
        "blocks": np.kron([[1, 0, 0], [1, 0, 0]], np.ones((32, 32))) > 0,
    }
    return jnp.where(kept[layout], drawn, 0.0)


def saved(path, layout: str, bits: int, **options):
    """The file's tensor, as it is stored, and what a dense reader gets."""
    params = {"layer": {"kernel": pruned(layout)}, "bias": jnp.ones(3)}
    params = quantize(params, bits=bits, **options) if bits < 32 else params
    summary = export.save(path, params, compression="zlib")
    assert {tensor.path: tensor.layout for tensor in summary.tensors}["layer/kernel"] == layout
    return params["layer"]["kernel"], export.load(path)["layer"]["kernel"]


@pytest.mark.parametrize("layout", ["dense", "bitmask", "n:m", "blocks"])
@pytest.mark.parametrize("bits", [32, 8, 4])
def test_every_layout_and_width(tmp_path, layout, bits):
    stored, dense = saved(tmp_path / "file", layout, bits)
    params, choices = load_sparse(tmp_path / "file", values="float" if bits == 32 else "int8")
    kernel, form = params["layer"]["kernel"], choices["layer/kernel"].form
    wanted = {"dense": "dense", "bitmask": "bitmap", "n:m": "n_m", "blocks": "blocks"}[layout]
    # Eight bits in a packed form take less than blocks in float32.
    assert form == ("bitmap" if layout == "blocks" and bits < 32 else wanted)
    if form != "dense":
        np.testing.assert_array_equal(UNPACK[type(kernel)](kernel), dense)
        if bits < 32:
            assert kernel.values.dtype == jnp.int8
            np.testing.assert_array_equal(kernel.scales, stored.scale[0])
    x = jax.random.normal(jax.random.key(2), (5, SIZES[0]))
    np.testing.assert_allclose(x @ kernel, x @ dense, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(params["bias"], 1.0)


@pytest.mark.parametrize("options", [{"granularity": 32}, {"symmetric": False}])
def test_scales_that_are_not_the_outputs_own_are_rounded_anew(tmp_path, options):
    stored, dense = saved(tmp_path / "file", "bitmask", 8, **options)
    kernel = load_sparse(tmp_path / "file", values="int8")[0]["layer"]["kernel"]
    assert is_quantized(stored)
    step = np.abs(dense).max(0) / 127
    assert np.all(np.abs(unpack_bitmap(kernel) - dense) <= 0.5001 * step)
    kernel = load_sparse(tmp_path / "file")[0]["layer"]["kernel"]
    np.testing.assert_array_equal(unpack_bitmap(kernel), dense)  # float values are the file's


def test_convolutions_and_stacks_stay_dense_and_a_type_without_products_is_refused(tmp_path):
    params = {
        "conv": {"kernel": jnp.zeros((3, 3, 4, 4)).at[0].set(1.0)},
        "layers": {"kernel": jnp.zeros((2, 64, 64)).at[0].set(1.0)},
    }
    export.save(tmp_path / "file", params)
    loaded, choices = load_sparse(tmp_path / "file")
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert {choice.form for choice in choices.values()} == {"dense"}
    assert set(choices) == {"conv/kernel", "layers/kernel"}
    export.save(tmp_path / "half", {"kernel": jnp.eye(64, dtype=jnp.float16)})
    with pytest.raises(KernelError, match="float16"):
        load_sparse(tmp_path / "half")
