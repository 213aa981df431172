"""The differentiable product with a block-sparse matrix, and the choice of who computes it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.errors import KernelError
from sparsejax.kernels import tuning, xla_products
from sparsejax.kernels.block_scores import block_grad_scores
from sparsejax.kernels.block_sparse import BlockSparse, check_input
from sparsejax.kernels.rows import HARDWARE, Product, Rows, multiply
from sparsejax.kernels.topology import Topology
from sparsejax.typing import Array

#: Who may compute a product: the four formulations in plain XLA, or a kernel of one kind of hardware.
IMPLEMENTATIONS = ("auto", *xla_products.FORMULATIONS, *HARDWARE)


class _Case(NamedTuple):
    """What is static of a product."""

    shape: tuple[int, int]
    implementation: str
    rows: Rows | None


def matmul(x: Array, w: BlockSparse) -> Array:
    """Multiplies by a block-sparse matrix: ``y = x W``; differentiable in `x` and in the live blocks.

    ``dx = g Wᵀ``, ``dW = xᵀ g`` at the live blocks alone. Sums are float32.

    Args:
      x: float32 or bfloat16 (…, inputs), of the matrix's type.
      w: the matrix (inputs, outputs).

    Returns:
      (…, outputs), of the type of `x`.

    Raises:
      ParamsError: another number of inputs.
      KernelError: an unknown implementation, or one that cannot do this: a type, a size or a device.

    Example:
      >>> from sparsejax.kernels.block_sparse import from_dense
      >>> matmul(jnp.ones((3, 4)), from_dense(jnp.eye(4), block=(2, 2))).shape
      (3, 4)
    """
    x = jnp.asarray(x)
    check_input(x, w.shape, w.dtype)
    if w.implementation not in IMPLEMENTATIONS:
        raise KernelError(f"implementation={w.implementation!r}: choose one of {', '.join(IMPLEMENTATIONS)}.")
    flat = x.reshape(-1, x.shape[-1])
    y = _product(flat, w.data, w.topology, w.probe, _Case(w.shape, w.implementation, w.rows))
    return y.reshape(*x.shape[:-1], w.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _product(x: Array, data: Array, topology: Topology, probe: Array | None, case: _Case) -> Array:
    del probe
    chosen = _chosen("dsd", x, data, case)
    if chosen in HARDWARE:
        return multiply(_by_kernels("dsd", chosen, data, case), x, data, topology)
    return xla_products.dsd(x, data, topology, case.shape[1], chosen)


def _forward(x: Array, data: Array, topology: Topology, probe: Array | None, case: _Case) -> tuple:
    return _product(x, data, topology, probe, case), (x, data, topology, probe)


def _backward(case: _Case, saved: tuple, g: Array) -> tuple:
    x, data, topology, probe = saved
    scores = None
    if probe is not None:
        scores = block_grad_scores(x, g, data.shape[-2:]).astype(probe.dtype)
    return _input_gradient(g, data, topology, case), _block_gradient(x, g, data, topology, case), None, scores


_product.defvjp(_forward, _backward)


def _input_gradient(g: Array, data: Array, topology: Topology, case: _Case) -> Array:
    chosen = _chosen("dsd_t", g, data, case)
    if chosen in HARDWARE:
        return multiply(_by_kernels("dsd_t", chosen, data, case), g, data, topology)
    return xla_products.dsd_t(g, data, topology, case.shape[0], chosen)


def _block_gradient(x: Array, g: Array, data: Array, topology: Topology, case: _Case) -> Array:
    chosen = _chosen("sdd", x, data, case)
    block = data.shape[-2:]
    if chosen in HARDWARE:
        blocks = multiply(_by_kernels("sdd", chosen, data, case), x, g, topology)
        # The kernels leave dead slots unwritten.
        return jnp.where(topology.is_live[:, None, None], blocks, 0).astype(data.dtype)
    return xla_products.sdd(x, g, topology, block, chosen).astype(data.dtype)


def _by_kernels(product: str, hardware: str, data: Array, case: _Case) -> Product:
    return Product(product, hardware, case.shape, data.shape[-2:], case.rows)


def _chosen(product: str, x: Array, data: Array, case: _Case) -> str:
    """The implementation that was asked for, or the one for this device and these sizes."""
    if case.implementation != "auto":
        return case.implementation
    backend = jax.default_backend() if case.rows is None else case.rows.platform
    if backend == "tpu":
        from sparsejax.kernels import tpu

        if tpu.fits(x.shape[0], data.shape[-2:]):
            return "tpu"
    if backend == "gpu":
        from sparsejax.kernels import mosaic_gpu

        fits = mosaic_gpu.fits(x.shape[0], data.shape[-2:], data.dtype)
        if fits and mosaic_gpu.is_hopper() and (product != "sdd" or data.shape[-2] >= 128):
            return "mosaic_gpu"
    return tuning.choose(product, x.shape[0], case.shape, data.shape, data.dtype)
