"""`save_shrunk` and `load_shrunk`: a shrunk model in one file, for the next process."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import FileError, ParamsError, TracingError
from sparsejax.params.paths import flatten_with_paths
from sparsejax.params.whole_file import whole_file
from sparsejax.tracing.fingerprint import fingerprint
from sparsejax.tracing.groups import Group, Member
from sparsejax.tracing.jaxpr import as_tuple
from sparsejax.tracing.shrinking import ShrunkFunction, shapes_of, shrink_tree
from sparsejax.typing import Params

_FORMAT = "sparsejax shrunk function, version 1"
# JAX writes the kind of a key by a short name.
_KEYS = {"key<fry>": "threefry2x32", "key<rbg>": "rbg", "key<urbg>": "unsafe_rbg"}


def save_shrunk(path: str | Path, small_fn: Callable[..., Any], small_params: Params) -> None:
    """Writes a shrunk model to one file: its parameters, what was kept of which groups, a hash of its function.

    The function itself is code and stays where it is; `load_shrunk` takes it again. The file is a NumPy archive
    without pickles, whole or absent: it is written beside its place and renamed.

    Args:
      path: where to; an older file there is replaced.
      small_fn: what `shrink` returned, jitted or not.
      small_params: its parameters, as they came or trained further.

    Raises:
      TracingError: `small_fn` is not what `shrink` returned.
      ParamsError: the parameters have other shapes than `small_fn` takes.
      FileError: the file cannot be written.

    Example:
      >>> import tempfile
      >>> from sparsejax import prunable_groups, shrink
      >>> params, x = {"a": jnp.ones((8, 3)), "c": jnp.ones((3, 4))}, jnp.ones((2, 8))
      >>> fn = lambda p, x: x @ p["a"] @ p["c"]
      >>> groups = prunable_groups(fn, params, x)
      >>> small_fn, small_params = shrink(fn, params, x, groups, {"a:1": np.array([True, False, True])})
      >>> path = Path(tempfile.mkdtemp()) / "small.npz"
      >>> save_shrunk(path, small_fn, small_params)
      >>> loaded_fn, loaded = load_shrunk(path, fn)
      >>> bool((loaded_fn(loaded, x) == small_fn(small_params, x)).all())
      True
    """
    small_fn = getattr(small_fn, "__wrapped__", small_fn)
    if not isinstance(small_fn, ShrunkFunction):
        raise TracingError(
            f"save_shrunk got a {type(small_fn).__name__}; give it the function that shrink returned, and its "
            "parameters. Branches that drop_branches left out are no part of such a file."
        )
    leaves, expected = jax.tree.leaves(small_params), small_fn.small_shapes
    if [np.shape(leaf) for leaf in leaves] != expected:
        raise ParamsError(
            f"The small function takes parameters of shapes {expected}; save_shrunk got "
            f"{[np.shape(leaf) for leaf in leaves]}."
        )
    arrays = {f"leaf_{number}": _bits(leaf) for number, leaf in enumerate(leaves)}
    names = sorted(small_fn.keep)
    arrays |= {f"keep_{number}": np.asarray(small_fn.keep[name]) for number, name in enumerate(names)}
    members = [member for group in small_fn.groups.values() for member in group.members]
    arrays |= {f"index_{number}": member.index for number, member in enumerate(members)}
    header = {
        "format": _FORMAT,
        "jax": jax.__version__,
        "function": fingerprint(small_fn.structure(small_fn.inputs)[0].traced.closed),
        "params": _described(small_fn.params),
        "inputs": _described(small_fn.inputs),
        "keep": names,
        "groups": {name: _written(group) for name, group in small_fn.groups.items()},
    }
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    _write(Path(path), arrays)


def load_shrunk(
    path: str | Path, fn: Callable[..., Any], params: Params | None = None, inputs: Any = None
) -> tuple[ShrunkFunction, Params]:
    """Reads what `save_shrunk` wrote.

    Args:
      path: the file.
      fn: the function at full size that was shrunk. It is traced, and told from another by a hash of its jaxpr;
        arrays that it closes over may hold other numbers.
      params: the full parameters or their shapes, for their containers; may be left out where those are dicts,
        lists and tuples.
      inputs: one further argument of `fn`, or a tuple of all of them, of the shapes that `shrink` was given;
        likewise.

    Returns:
      ``(small_fn, small_params)`` as `shrink` gave them; `small_params` with the numbers that were saved.

    Raises:
      FileError: there is no such file, it is damaged, or was not written by `save_shrunk`.
      TracingError: `fn` is another function than the one that was saved.
      ParamsError: `params` are not the parameters that were shrunk, or must be given.
    """
    arrays = _read(Path(path))
    header = _header(path, arrays)
    specs = _restored(header["params"], params, "params", path)
    arguments = as_tuple(
        _restored(header["inputs"], None if inputs is None else as_tuple(inputs), "inputs", path)
    )
    try:
        groups, keep = _groups(header, arrays), {n: arrays[f"keep_{i}"] for i, n in enumerate(header["keep"])}
        count = len(header["params"]["leaves"])
        leaves = [_value(arrays[f"leaf_{i}"], header["params"]["leaves"][i][2]) for i in range(count)]
    except (KeyError, ValueError, TypeError) as error:
        raise FileError(f"{path} is damaged: {error!r}. Write it again with save_shrunk.") from error
    small_fn = _same_function(path, header, fn, specs, arguments, groups, keep)
    small = jax.tree.unflatten(jax.tree.structure(specs), leaves)
    shapes = jax.tree.leaves(shrink_tree(specs, groups, keep))
    if [np.shape(leaf) for leaf in leaves] != [spec.shape for spec in shapes]:
        raise FileError(f"{path} is damaged: its parameters do not have the sizes that its groups say.")
    return small_fn, small


def _same_function(
    path: Any, header: Any, fn: Callable[..., Any], specs: Any, arguments: Any, groups: Any, keep: Any
) -> ShrunkFunction:
    advice = "Give load_shrunk the function that shrink was given."
    try:
        small_fn = ShrunkFunction(fn, specs, arguments, groups, keep)
    except Exception as error:  # whatever another function raises when it is traced
        raise TracingError(
            f"The function does not take the parameters and inputs of {path} ({type(error).__name__}: {error}). "
            f"{advice}"
        ) from error
    if fingerprint(small_fn.structure(arguments)[0].traced.closed) != header["function"]:
        written = header["jax"]
        other = (
            ""
            if written == jax.__version__
            else f", or JAX {jax.__version__} traces it otherwise than {written}"
        )
        raise TracingError(f"The function is another one than that of {path}{other}. {advice}")
    return small_fn


# ---- trees as text: shapes, types, paths, and containers where they are plain


def _described(tree: Any) -> dict[str, Any]:
    paths, leaves, _ = flatten_with_paths(shapes_of(tree))
    described = [[path, list(x.shape), str(x.dtype)] for path, x in zip(paths, leaves, strict=True)]
    numbered = jax.tree.unflatten(jax.tree.structure(tree), range(len(leaves)))
    try:
        return {"leaves": described, "form": _form(numbered)}
    except TypeError as error:
        return {"leaves": described, "form": None, "container": str(error)}


def _form(tree: Any) -> Any:
    if type(tree) is dict:
        return {
            "dict": [[key if isinstance(key, str | int) else _no_form(key), _form(tree[key])] for key in tree]
        }
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [_form(part) for part in tree]}
    return tree if tree is None or type(tree) is int else _no_form(tree)


def _no_form(value: Any) -> Any:
    raise TypeError(type(value).__name__)


def _formed(form: Any, leaves: list[Any]) -> Any:
    if form is None or isinstance(form, int):
        return None if form is None else leaves[form]
    ((kind, parts),) = form.items()
    if kind == "dict":
        return {key: _formed(part, leaves) for key, part in parts}
    return (list if kind == "list" else tuple)(_formed(part, leaves) for part in parts)


def _restored(described: Any, given: Any, what: str, path: Any) -> Any:
    """The shapes of a tree: from the file, or as given where that fits the file."""
    if given is not None:
        specs = shapes_of(given)
        found = _described(specs)["leaves"]
        if found != described["leaves"]:
            differing = [(a, b) for a, b in zip(described["leaves"], found, strict=False) if a != b]
            saved, got = differing[0] if differing else (len(described["leaves"]), len(found))
            raise ParamsError(f"{what}= are not those of {path}: it has {saved}, not {got}.")
        return specs
    if described["form"] is None:
        raise ParamsError(
            f"{what} were saved from a {described['container']}, which {path} cannot build. Give load_shrunk "
            f"{what}=, at full size; shapes are enough (jax.eval_shape of the model's init)."
        )
    leaves = [jax.ShapeDtypeStruct(tuple(shape), _dtype(name)) for _, shape, name in described["leaves"]]
    return _formed(described["form"], leaves)


def _dtype(name: str) -> Any:
    if name in _KEYS:
        return jax.eval_shape(lambda: jax.random.key(0, impl=_KEYS[name])).dtype
    return jnp.dtype(name)


# ---- groups


def _written(group: Group) -> dict[str, Any]:
    return group._asdict() | {"members": [[m.path, m.axis, m.role] for m in group.members]}


def _groups(header: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, Group]:
    number, groups = 0, {}
    for name, fields in header["groups"].items():
        members = []
        for place, axis, role in fields["members"]:
            members.append(Member(place, axis, arrays[f"index_{number}"], role))
            number += 1
        groups[name] = Group(**fields | {"members": tuple(members)})
    return groups


# ---- the file


def _bits(leaf: Any) -> np.ndarray:
    """Types that NumPy does not know are written as whole numbers of their width."""
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(leaf))
    array = np.asarray(leaf)
    return array if array.dtype.isbuiltin else array.view(f"u{array.dtype.itemsize}")


def _value(array: np.ndarray, name: str) -> jax.Array:
    if name in _KEYS:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=_KEYS[name])
    dtype = jnp.dtype(name)
    return jnp.asarray(array if array.dtype == dtype else array.view(dtype))


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    try:
        with whole_file(path) as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise FileError(
            f"{path} could not be written ({error.strerror}); what was there before is as it was. Free space or "
            "choose another place, and save again."
        ) from error


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise FileError(f"There is no file {path}.") from error
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise FileError(
            f"{path} cannot be read ({type(error).__name__}: {error}): it is cut off, damaged, or was not written "
            "by save_shrunk."
        ) from error


def _header(path: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    try:
        header = json.loads(arrays["header"].tobytes())
        found = header["format"]
    except (KeyError, ValueError, TypeError) as error:
        raise FileError(f"{path} was not written by save_shrunk: it has no header.") from error
    if found != _FORMAT:
        raise FileError(f"{path} is a {found!r}; this sparsejax reads {_FORMAT!r}.")
    return header
