"""Few rows times a packed matrix: a kernel of the device where there is one for that form, else plain XLA."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from sparsejax.typing import Array

#: Form to the modules of its kernels, by backend. Each has a function of the form's name, and `fits`.
KERNELS = {
    "bitmap": {"gpu": "mosaic_decode"},
    "deltas": {"gpu": "mosaic_decode"},
    "n_of_m": {"gpu": "mosaic_decode", "tpu": "tpu_decode"},
}
#: What JAX calls the backends where it lowers.
_PLATFORM = {"gpu": "cuda", "tpu": "tpu"}
#: Rows beyond which the arithmetic is the limit, not the memory: there the matrix is unpacked for a dense product.
MOST_ROWS = 8


def decode(form: str, plain: Callable[[Array, Any], Array], x: Array, w: Any) -> Array:
    """Multiplies by a packed matrix: ``y = x W``.

    A kernel is taken for up to `MOST_ROWS` rows, in a process of one device; it is differentiated through plain XLA,
    and over an axis of `vmap` it runs once a member.

    Args:
      form: a key of `KERNELS`.
      plain: ``(x, w) -> y`` in plain XLA.
      x: (…, inputs).
      w: the packed matrix.

    Returns:
      (…, outputs).
    """
    flat = x.reshape(-1, x.shape[-1])
    backend = jax.default_backend()
    kernel = kernel_for(form, backend, flat, w) if jax.device_count() == 1 else None
    if kernel is None:
        return plain(x, w)
    y = product_by((kernel, plain, _PLATFORM[backend]), flat, w)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def kernel_for(form: str, backend: str, x: Array, w: Any) -> Callable[[Array, Any], Array] | None:
    """The kernel of a form on a backend, None where it has none or one that does not take these sizes.

    Args:
      form: a key of `KERNELS`.
      backend: as `jax.default_backend` calls it.
      x: (rows, inputs).
      w: the packed matrix.

    Returns:
      ``(x, w) -> y``.
    """
    name = KERNELS[form].get(backend)
    if name is None or not 1 <= x.shape[0] <= MOST_ROWS:
        return None
    kernels = importlib.import_module(f"sparsejax.kernels.{name}")
    return getattr(kernels, form) if kernels.fits(form, w) else None


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def product_by(case: tuple[Callable, Callable, str], x: Array, w: Any) -> Array:
    """Multiplies by a kernel where its platform computes, else in plain XLA, which all derivatives go through.

    Args:
      case: the kernel, ``(x, w) -> y`` in plain XLA, and the platform as JAX calls it where it lowers.
      x: (rows, inputs).
      w: the packed matrix.

    Returns:
      (rows, outputs).
    """
    kernel, plain, platform = case
    call = jax.custom_batching.sequential_vmap(
        lambda x, w: lax.platform_dependent(x, w, **{platform: kernel}, default=plain)
    )
    return call(x, w)


@product_by.defjvp
def _tangent(case: tuple, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """By this rule, and not one for gradients alone, there are also Jacobians and Hessians by forward mode."""
    return product_by(case, *primals), jax.jvp(case[1], primals, tangents)[1]
