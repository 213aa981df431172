"""Checkpoints that are whole or not there, and are checked leaf by leaf before anything trusts them."""

import contextlib
import logging
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.errors import CheckpointError


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
      step: steps taken when it was written.
      tree: like the template.
    """

    step: int
    tree: Any


@contextlib.contextmanager
def open_checkpoints(directory: pathlib.Path, *, keep: int) -> Iterator[Any]:
    """Opens the checkpoints of a run; pending writes are waited for when the block ends.

    Args:
      directory: made when absent; on several hosts, one that all of them see.
      keep: how many of the newest to keep.

    Yields:
      orbax's manager, for `save_checkpoint` and `restore_newest`.
    """
    import orbax.checkpoint as ocp  # late: it takes seconds to import

    logging.getLogger("absl").setLevel(logging.ERROR)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=True,
        # On a CPU an array on the host is the device's own buffer, which the next chunk overwrites.
        enable_async_checkpointing=jax.default_backend() != "cpu",
    )
    with ocp.CheckpointManager(pathlib.Path(directory).absolute(), options=options) as manager:
        yield manager


def save_checkpoint(manager: Any, step: int, tree: Any) -> None:
    """Writes a checkpoint; until it is complete no reader takes it for one.

    Boolean arrays (masks) are kept as bits; random keys as their data.

    Args:
      manager: from `open_checkpoints`.
      step: steps taken.
      tree: any pytree of arrays, sharded or not.

    Raises:
      CheckpointError: there is one of this step or a later one.
    """
    import orbax.checkpoint as ocp

    encoded = _encode(tree)
    meta = {"leaves": _descriptions(encoded)}
    arguments = ocp.args.Composite(state=ocp.args.StandardSave(encoded), meta=ocp.args.JsonSave(meta))
    if not manager.save(step, args=arguments):
        raise CheckpointError(
            f"{manager.directory} holds step {manager.latest_step()} already, so step {step} was not saved."
        )


def restore_newest(manager: Any, template: Any) -> Restored | None:
    """Reads the newest checkpoint that is whole: complete, and each leaf with the checksum it was saved with.

    Args:
      manager: from `open_checkpoints`.
      template: a tree of the same shapes and types; each leaf comes back lying on the devices as the
        template's does, whatever mesh it was saved from.

    Returns:
      The checkpoint; None where there is none at all. Damaged ones that are newer are removed.

    Raises:
      CheckpointError: there are checkpoints, and every one of them is damaged or of another model.
    """
    found, problems = sorted(manager.all_steps(), reverse=True), []
    for step in found:
        try:
            restored = _restore(manager, step, template)
        except Exception as error:  # orbax, tensorstore and zstd each raise their own for damaged files
            problems.append(f"step {step}: {_first_line(error)}")
            warnings.warn(
                f"The checkpoint of step {step} in {manager.directory} cannot be used "
                f"({_first_line(error)}); the next older one is tried.",
                stacklevel=2,
            )
        else:
            for damaged in found[: len(problems)]:  # else no later save would be made up to its step
                manager.delete(damaged)
            return restored
    if problems:
        raise CheckpointError(
            f"No checkpoint in {manager.directory} can be used ({'; '.join(problems)}). "
            "Remove the directory to begin anew."
        )
    return None


def checksums(leaves: Mapping[str, jax.Array]) -> dict[str, int]:
    """Computes a checksum of each leaf on the devices, the same however the leaf is sharded.

    ``Σ_i mix(bits_i + mix(i)) mod 2³²``, over the leaf's 32-bit (or narrower) words

    A sum of integers does not depend on the order of its terms; the index in each term makes it depend on
    the order of the elements.

    Args:
      leaves: arrays by name.

    Returns:
      A number below 2³² for each.

    Example:
      >>> one, other = checksums({"a": jnp.arange(3), "b": jnp.array([0, 2, 1])}).values()
      >>> one == other
      False
    """
    return {name: int(value) for name, value in _checksum_all(dict(leaves)).items()}


@jax.jit
def _checksum_all(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: _checksum(leaf) for name, leaf in leaves.items()}


def _checksum(leaf: jax.Array) -> jax.Array:
    leaf = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
    width = leaf.dtype.itemsize
    words = jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16}.get(width, jnp.uint32))
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, length in enumerate(words.shape):
        index = index * jnp.uint32(length) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return jnp.sum(_mix(words.astype(jnp.uint32) + _mix(index)), dtype=jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit words in which each bit of the input reaches most of the output."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _restore(manager: Any, step: int, template: Any) -> Restored:
    import orbax.checkpoint as ocp

    meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
    like = _encode(template)
    _check_same_model({name: description[1:] for name, description in meta["leaves"].items()}, like)
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for name, leaf in like.items()
    }
    state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted))).state
    for name, value in checksums(state).items():
        if value != meta["leaves"][name][0]:
            raise CheckpointError(f"the checksum of {name} does not hold")
    return Restored(step, _decode(state, template))


def _check_same_model(stored: Mapping[str, list[Any]], like: Mapping[str, jax.Array]) -> None:
    here = {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in like.items()}
    for name in sorted(stored.keys() | here.keys()):
        if stored.get(name) != here.get(name):
            raise CheckpointError(
                f"{name} is {stored.get(name, 'absent')} there and {here.get(name, 'absent')} here"
            )


def _descriptions(leaves: Mapping[str, jax.Array]) -> dict[str, list[Any]]:
    sums = checksums(leaves)
    return {name: [sums[name], str(leaf.dtype), list(leaf.shape)] for name, leaf in leaves.items()}


def _encode(tree: Any) -> dict[str, jax.Array]:
    """The leaves by name, in types that a file holds: a dict, which orbax restores whatever the tree is."""
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in pairs)
    return {
        f"{i:04d}.{name}": _to_stored(leaf)
        for i, (name, (_, leaf)) in enumerate(zip(names, pairs, strict=True))
    }


def _decode(leaves: Mapping[str, jax.Array], template: Any) -> Any:
    like, treedef = jax.tree.flatten(template)
    ordered = [leaves[name] for name in sorted(leaves)]
    found = [_from_stored(leaf, wanted) for leaf, wanted in zip(ordered, like, strict=True)]
    return jax.tree.unflatten(treedef, found)


def _to_stored(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return jnp.packbits(leaf, axis=-1) if leaf.dtype == jnp.bool_ and leaf.ndim else leaf


def _from_stored(leaf: jax.Array, like: jax.Array) -> jax.Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like))
    if like.dtype == jnp.bool_ and like.ndim:
        leaf = jnp.unpackbits(leaf, axis=-1, count=like.shape[-1]).astype(bool)
    return jax.device_put(leaf, like.sharding)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
