"""One compilation for each program of these tests, however often and in however many processes it is run."""

import contextlib

import jax
from jax.experimental import compilation_cache

SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}


@contextlib.contextmanager
def shared_programs(directory):
    """Keeps compiled programs in a directory while the block runs."""
    settings = {"jax_compilation_cache_dir": str(directory), **SETTINGS}
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.compilation_cache.reset_cache()
