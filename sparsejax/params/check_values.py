"""Refusing at once what is no value of the kind that an argument takes: a class, an uncalled factory, a text."""

import inspect
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from sparsejax.errors import ParamsError, SparsejaxError
from sparsejax.params.paths import flatten_with_paths, is_masked_node


def require_kind(
    value: Any, kind: type | tuple[type, ...], name: str, instead: str, error: type[SparsejaxError]
) -> None:
    """Refuses a value of another type, and says which mistake it looks like.

    Args:
      value: what came.
      kind: the type or types that fit.
      name: the argument.
      instead: what to write, such as ``"distributions.uniform()"``.
      error: the type of the error.

    Raises:
      SparsejaxError: of the type `error`.

    Example:
      >>> require_kind(3, int, "count", "a number", ParamsError)
    """
    if not isinstance(value, kind):
        raise error(f"{name} is {describe_value(value)}; give for example {instead}.")


def describe_value(value: Any) -> str:
    """Words for a value that does not fit.

    Args:
      value: anything.

    Returns:
      What it is, in a few words.

    Example:
      >>> describe_value("uniform"), describe_value(optax.adamw)
      ("the text 'uniform'", 'the function adamw, not what it returns when called')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}, not a value made by it"
    if isinstance(value, str):
        return f"the text {reprlib.repr(value)}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}, not what it returns when called"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)}"
    if jax.tree.leaves(value) not in ([], [value]):  # not one leaf: its arrays would fill the screen
        return f"a {type(value).__name__} of {len(jax.tree.leaves(value))} leaves"
    return f"{reprlib.repr(value)} ({type(value).__name__})"


def require_optimizer(optimizer: Any, name: str = "optimizer") -> None:
    """Refuses what is no optax transformation.

    Args:
      optimizer: what came.
      name: the argument.

    Raises:
      ParamsError: it is none.

    Example:
      >>> require_optimizer(optax.sgd(0.1))
    """
    require_kind(optimizer, optax.GradientTransformation, name, "optax.adamw(1e-3)", ParamsError)


def require_callable(value: Any, name: str, signature: str, error: type[SparsejaxError]) -> None:
    """Refuses what cannot be called.

    Args:
      value: what came.
      name: the argument.
      signature: of the function that is wanted.
      error: the type of the error.

    Raises:
      SparsejaxError: of the type `error`.
    """
    if isinstance(value, type) or not callable(value):
        raise error(f"{name} is {describe_value(value)}; give a function {signature}.")


def require_arguments(
    value: Any, arguments: Sequence[Any], name: str, signature: str, error: type[SparsejaxError]
) -> None:
    """Refuses what cannot be called with these arguments, before it is called and fails in its own words.

    Args:
      value: what came.
      arguments: those that it will be called with.
      name: the argument.
      signature: of the function that is wanted.
      error: the type of the error.

    Raises:
      SparsejaxError: of the type `error`.

    Example:
      >>> require_arguments(max, ("path", None), "prunable", "(path, leaf) -> bool", ParamsError)
    """
    require_callable(value, name, signature, error)
    try:
        taken = inspect.signature(value)
    except (TypeError, ValueError):  # some built-in functions do not tell
        return
    try:
        taken.bind(*arguments)
    except TypeError as mismatch:
        what = f"{getattr(value, '__name__', type(value).__name__)}({', '.join(taken.parameters)})"
        raise error(
            f"{name} is {what}, which does not fit ({mismatch}): give a function {signature}."
        ) from None


def require_mapping(value: Any, name: str, instead: str) -> None:
    """Refuses what is no mapping.

    Args:
      value: what came; None passes.
      name: the argument.
      instead: what to write.

    Raises:
      ParamsError: it is none.
    """
    if value is not None and not isinstance(value, Mapping):
        raise ParamsError(f"{name} is {describe_value(value)}; give a mapping such as {instead}.")


def one_or_several(value: str | Iterable[str], name: str, error: type[SparsejaxError]) -> tuple[str, ...]:
    """Texts that were given alone or as several.

    Args:
      value: a text, or an iterable of texts.
      name: the argument.
      error: the type of the error.

    Returns:
      All of them.

    Raises:
      SparsejaxError: of the type `error`; something else came.

    Example:
      >>> one_or_several("head/*", "ignore", ParamsError)
      ('head/*',)
    """
    if not isinstance(value, Iterable):
        raise error(f"{name} is {describe_value(value)}; give a text or several of them.")
    several = (value,) if isinstance(value, str) else tuple(value)
    for item in several:
        if not isinstance(item, str):
            raise error(f"{name} has {describe_value(item)}; give a text or several of them.")
    return several


def require_array_leaves(params: Any) -> None:
    """Refuses parameters with leaves that are no arrays, such as the functions inside an equinox module.

    Args:
      params: any pytree.

    Raises:
      ParamsError: a leaf has no shape and dtype; it is named.

    Example:
      >>> require_array_leaves({"w": np.ones(2)})
    """
    for path, leaf in zip(*flatten_with_paths(params)[:2], strict=True):
        numeric = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
        if not (numeric or isinstance(leaf, int | float | complex) or is_masked_node(leaf)):
            raise ParamsError(
                f"The leaf {path!r} of the parameters is {describe_value(leaf)}, no array. Pass the arrays alone: of "
                "an equinox module equinox.filter(model, equinox.is_inexact_array), of an nnx module "
                "nnx.state(model, nnx.Param)."
            )


def require_same_shapes(first: Any, second: Any, say: str) -> None:
    """Refuses two trees of parameters that differ in paths or shapes.

    Args:
      first: a pytree.
      second: another.
      say: how the error begins.

    Raises:
      ParamsError: they differ; the first path in the alphabet is named.

    Example:
      >>> require_same_shapes({"w": np.ones(2)}, {"w": np.zeros(2)}, "The networks differ")
    """
    ours, theirs = (
        {path: np.shape(leaf) for path, leaf in zip(*flatten_with_paths(tree)[:2], strict=True)}
        for tree in (first, second)
    )
    for path in sorted(ours.keys() | theirs.keys()):
        if ours.get(path) != theirs.get(path):
            raise ParamsError(
                f"{say}: {path!r} is {ours.get(path, 'absent')} in the first and {theirs.get(path, 'absent')} in the "
                "second."
            )


def is_single_key(key: jax.Array) -> bool:
    """Tells whether an array is one random key, typed or of raw words, and not several.

    Args:
      key: an array of keys, or of their words.

    Returns:
      True for one key.

    Example:
      >>> is_single_key(jax.random.key(0)), is_single_key(jax.random.split(jax.random.key(0), 3))
      (True, False)
    """
    return key.ndim == (0 if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) else 1)
