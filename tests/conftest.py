"""What every test starts from: JAX on one CPU device of this process."""

import contextlib
import ctypes
import gc
import os
import pathlib

from tests.compile_cache import quick_flags, settings

# Read when JAX starts, so before any test imports it. Tests of several devices start processes of their own.
os.environ["JAX_PLATFORMS"] = "cpu"
# As a user's JAX compiles: SPARSEJAX_TEST_XLA_FLAGS= make test.
os.environ["XLA_FLAGS"] = os.environ.get("SPARSEJAX_TEST_XLA_FLAGS", quick_flags())
os.environ.update(settings())

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def one_cpu_device():
    """Fails at once where another device, or a flag set elsewhere, would change what is tested."""
    devices = jax.devices()
    assert [device.platform for device in devices] == ["cpu"], devices
    assert not jax.config.jax_enable_x64
    assert not jax.config.jax_disable_jit


# A worker keeps every program that it compiled: two come to more than ten gigabytes, and beyond some thousands JAX
# forgets the oldest, so that a test which counts a function's programs may find none.
_LIMIT = 2 * 2**30


@pytest.fixture(autouse=True, scope="module")
def little_memory():
    """Lets compiled programs go at the end of a file once they take too much; those still needed come from the disk."""
    yield
    status = pathlib.Path("/proc/self/statm")
    if status.exists() and int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > _LIMIT:
        jax.clear_caches()
        gc.collect()
        _return_memory()


def _return_memory() -> None:
    """Gives what was freed back to the system: the allocator keeps it, and every later file would seem too much."""
    with contextlib.suppress(OSError, AttributeError):  # where there is no glibc
        ctypes.CDLL(None).malloc_trim(0)
