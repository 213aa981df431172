"""The text that comes with every Python: which files of the standard library are read, and which are held out."""

import ast
import collections
import hashlib
import os
import pathlib
import platform
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping

from experiments.errors import DatasetError

#: One file in this many is held out.
HELD_OUT = 10
#: A package is a class of `labelled_files` when it has so many files and bytes.
CLASS_FILES, CLASS_BYTES = 9, 50_000

# Not part of the library's text: what is installed into it, its tests, and what a build wrote about its machine.
_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
_BUILT = ("_sysconfigdata", "config-", "pyconfig")


def python_version() -> str:
    """Names the running Python in a form that directories can carry.

    Returns:
      Such as ``"py3.11.7"``.

    Example:
      >>> python_version().startswith("py3.")
      True
    """
    return "py" + platform.python_version().rstrip("+")


def held_out(path: str) -> bool:
    """Decides from its path alone whether a file is held out, so that new files move no old ones.

    Args:
      path: relative path with forward slashes.

    Returns:
      True for one path in ten: SHA-1 of the path, modulo 10, is 0.

    Example:
      >>> [path for path in ("abc.py", "ast.py", "bisect.py", "queue.py") if held_out(path)]
      []
    """
    return int(hashlib.sha1(path.encode()).hexdigest(), 16) % HELD_OUT == 0


def read_part(part: str) -> dict[str, dict[str, bytes]]:
    """Reads one kind of text and splits it by file.

    ``"code"``: the library's modules, but for the next two. ``"tables"``: the package ``encodings``, which is mostly
    character tables. ``"prose"``: English: every module's docstrings, and the topics of ``help()``.
    ``"headers"``: the C headers of Python's API, where they are installed.
    A module and its docstrings are always held out together. Help topics repeat each other: a paragraph
    that an earlier topic or a held-out one has is dropped from the training topics.

    Args:
      part: a key of `PARTS`.

    Returns:
      ``{"train": {path: text}, "test": {path: text}}``, sorted by path, no text empty.

    Raises:
      DatasetError: an unknown part, or one whose files are not on this machine.

    Example:
      >>> sorted(read_part("tables"))
      ['test', 'train']
    """
    if part not in PARTS:
        raise DatasetError(f"python_text has no part {part!r}: choose one of {', '.join(PARTS)}.")
    texts = PARTS[part]()
    if not texts:
        raise DatasetError(
            f"No file of the part {part!r} is on this machine: this Python ({python_version()}) came "
            f"without them. Looked in {_root('include' if part == 'headers' else 'stdlib')}."
        )
    test = {path: text for path, text in texts.items() if held_out(path)}
    train = {path: text for path, text in texts.items() if path not in test}
    if part == "prose":
        train = _without_repeats(train, test)
    return {"train": train, "test": test}


def labelled_files() -> tuple[list[str], dict[str, dict[str, bytes]]]:
    """Reads the large packages of the library, whose names are the classes.

    Of each package, one file in ten (rounded up) is held out: those whose paths have the smallest SHA-1.

    Returns:
      The sorted names of the packages, and files by split as from `read_part`, all packages in both.

    Raises:
      DatasetError: the library is not on this machine as files.

    Example:
      >>> names, splits = labelled_files()
      >>> {"asyncio", "email", "encodings"} <= set(names)
      True
    """
    packages = collections.defaultdict(dict)
    for path, text in _modules().items():
        name, _, inside = path.partition("/")
        if inside:
            packages[name][path] = text
    large = {
        name: files
        for name, files in sorted(packages.items())
        if len(files) >= CLASS_FILES and sum(map(len, files.values())) >= CLASS_BYTES
    }
    if not large:
        raise DatasetError(f"The standard library's packages are not files in {_root('stdlib')}.")
    splits: dict[str, dict[str, bytes]] = {"train": {}, "test": {}}
    for files in large.values():
        ranked = sorted(files, key=lambda path: hashlib.sha1(path.encode()).digest())
        held = set(ranked[: -(-len(files) // HELD_OUT)])
        for path, text in files.items():
            splits["test" if path in held else "train"][path] = text
    return list(large), splits


def labelled_parts() -> dict[str, dict[str, bytes]]:
    """Reads all parts of `python_text` together; a part's name is the class of its files.

    Returns:
      Files by split as from `read_part`, their paths below the name of the part; in the order of the paths'
      SHA-1, so that a slice of a split has all kinds.

    Raises:
      DatasetError: a part whose files are not on this machine.

    Example:
      >>> {path.partition("/")[0] for path in labelled_parts()["train"]} >= {"code", "prose", "tables"}
      True
    """
    splits: dict[str, dict[str, bytes]] = {"train": {}, "test": {}}
    for part in PARTS:
        for split, files in read_part(part).items():
            splits[split] |= {f"{part}/{path}": text for path, text in files.items()}
    return {split: dict(sorted(files.items(), key=_by_digest)) for split, files in splits.items()}


def _by_digest(file: tuple[str, bytes]) -> bytes:
    return hashlib.sha1(file[0].encode()).digest()


def _root(kind: str) -> pathlib.Path:
    return pathlib.Path(sysconfig.get_path(kind))


def _files(root: pathlib.Path, suffix: str, below: str = "") -> dict[str, bytes]:
    found = {}
    for folder, inside, names in os.walk(root / below):
        # What is installed is never walked: it may be a hundred times as much.
        inside[:] = filter(_belongs, inside)
        for name in filter(_belongs, names):
            if name.endswith(suffix):
                path = pathlib.Path(folder, name)
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    return {path: text for path, text in sorted(found.items()) if text}


def _belongs(name: str) -> bool:
    return name not in _SKIPPED and not name.startswith(_BUILT)


def _modules() -> dict[str, bytes]:
    return _files(_root("stdlib"), ".py")


def _code() -> dict[str, bytes]:
    other = ("encodings/", "pydoc_data/")
    return {path: text for path, text in _modules().items() if not path.startswith(other)}


def _tables() -> dict[str, bytes]:
    return _files(_root("stdlib"), ".py", "encodings")


def _headers() -> dict[str, bytes]:
    return _files(_root("include"), ".h")


def _prose() -> dict[str, bytes]:
    texts = {}
    for path, source in _modules().items():
        if path == "pydoc_data/topics.py":
            topics = _assigned_dict(source)
            texts.update({f"{path}/{name}": text.encode() for name, text in sorted(topics.items())})
        elif docstrings := "\n\n".join(_docstrings(source)):
            texts[path] = docstrings.encode(errors="replace")
    return texts


def _docstrings(source: bytes) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(_parse(source)):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text


def _assigned_dict(source: bytes) -> dict[str, str]:
    values = (node.value for node in ast.walk(_parse(source)) if isinstance(node, ast.Assign))
    return next((ast.literal_eval(value) for value in values if isinstance(value, ast.Dict)), {})


def _parse(source: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in old modules
        return ast.parse(source)


def _without_repeats(train: Mapping[str, bytes], test: Mapping[str, bytes]) -> dict[str, bytes]:
    seen = {paragraph for text in test.values() for paragraph in text.split(b"\n\n")}
    kept = {}
    for path, text in train.items():
        if path.startswith("pydoc_data/"):
            fresh = [paragraph for paragraph in text.split(b"\n\n") if paragraph not in seen]
            seen.update(fresh)
            text = b"\n\n".join(fresh)
        if text:
            kept[path] = text
    return kept


#: What `read_part` knows.
PARTS: dict[str, Callable[[], dict[str, bytes]]] = {
    "code": _code,
    "tables": _tables,
    "prose": _prose,
    "headers": _headers,
}
