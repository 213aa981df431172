"""Files of this machine, labelled by their extension: real data for a file-type classifier, wherever it runs."""

import hashlib
import os
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.errors import DatasetError

#: Bytes of a file that the network sees: so many from its beginning, so many from its end, and what fills up.
BEGINNING, END, PADDING = 1024, 1024, 256
_BLOCK = 4096
#: Extension -> the kind of file, in Magika's words. Perl is left out: its data tables are called .pl too.
KINDS = {
    ".py": "python", ".json": "json", ".so": "elf", ".html": "html", ".css": "css", ".rst": "rst", ".png": "png",
    ".gz": "gzip", ".md": "markdown", ".yaml": "yaml", ".yml": "yaml", ".pyc": "pythonbytecode", ".sh": "shell",
    ".c": "c", ".cpp": "cpp", ".cc": "cpp", ".sql": "sql", ".svg": "svg", ".xml": "xml", ".js": "javascript",
    ".ts": "typescript", ".java": "java", ".jar": "jar", ".class": "javabytecode", ".rb": "ruby", ".lua": "lua",
    ".tcl": "tcl", ".m4": "m4", ".toml": "toml", ".ini": "ini", ".csv": "csv", ".npy": "npy", ".npz": "npz",
    ".zip": "zip", ".whl": "zip", ".ttf": "ttf", ".otf": "otf", ".woff": "woff", ".woff2": "woff2", ".gif": "gif",
    ".jpg": "jpeg", ".ico": "ico", ".wav": "wav", ".pdf": "pdf", ".cmake": "cmake", ".diff": "diff", ".patch": "diff",
    ".ipynb": "ipynb", ".parquet": "parquet", ".el": "lisp", ".go": "go", ".rs": "rust", ".php": "php", ".bat": "batch",
    ".ps1": "powershell", ".proto": "proto", ".pem": "pem", ".po": "po", ".scss": "scss", ".xz": "xz", ".bz2": "bzip",
    ".tar": "tar", ".r": "r", ".wasm": "wasm", ".pkl": "pickle", ".tsv": "tsv", ".awk": "awk", ".f90": "fortran",
}  # fmt: skip


class MachineFiles(NamedTuple):
    """Files and their kinds, no two alike.

    Attributes:
      tokens: int32, (files, 2048).
      labels: int32, (files,), places in the list of kinds that was given.
      counts: files of each kind.
      digest: SHA-1 of tokens and labels: which set of files this was.
    """

    tokens: np.ndarray
    labels: np.ndarray
    counts: dict[str, int]
    digest: str


def default_folders() -> tuple[str, ...]:
    """The system's library folders and those of the running Python."""
    found = ("/usr/lib", "/usr/share", "/usr/include", "/usr/local", sys.prefix, sys.base_prefix)
    return tuple(dict.fromkeys(folder for folder in found if os.path.isdir(folder)))


def read_machine_files(
    labels: Sequence[str], folders: Iterable[str] | None = None, *, most: int = 150
) -> MachineFiles:
    """Collects up to `most` files of each kind, in the order of the hashes of their paths.

    Of files with the same content, as the network sees them, one is taken. Links are not followed.

    Args:
      labels: all kinds, the classifier's classes.
      folders: where to look; `default_folders` when None.
      most: files of a kind.

    Returns:
      The files.

    Raises:
      DatasetError: no file of a known kind is there.
    """
    folders = tuple(map(str, default_folders() if folders is None else folders))
    by_kind: dict[str, list[str]] = {}
    for folder in folders:
        for above, _, names in os.walk(folder):
            for name in names:
                kind = KINDS.get(os.path.splitext(name)[1].lower())
                if kind in labels:
                    by_kind.setdefault(kind, []).append(os.path.join(above, name))
    tokens, found, seen = [], [], set()
    for kind in sorted(by_kind):
        taken = 0
        for path in sorted(set(by_kind[kind]), key=_hash):
            row = _read(path)
            key = None if row is None else row.tobytes()
            if key is None or key in seen:
                continue
            seen.add(key)
            tokens.append(row)
            found.append(labels.index(kind))
            taken += 1
            if taken == most:
                break
    if not tokens:
        raise DatasetError(f"There is no file of a known kind in {', '.join(folders) or 'no folder'}.")
    order = sorted(range(len(tokens)), key=lambda i: hashlib.sha1(tokens[i].tobytes()).digest())
    rows, kinds = np.stack([tokens[i] for i in order]), np.array([found[i] for i in order], np.int32)
    names, counts = np.unique(kinds, return_counts=True)
    digest = hashlib.sha1(rows.tobytes() + kinds.tobytes()).hexdigest()
    return MachineFiles(rows, kinds, {labels[i]: int(n) for i, n in zip(names, counts, strict=True)}, digest)


def _hash(path: str) -> bytes:
    return hashlib.sha1(path.encode(errors="surrogateescape")).digest()


def _read(path: str) -> np.ndarray | None:
    """The tokens of a file; None of what is no ordinary file of at least 8 bytes that may be read."""
    try:
        if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) < 8:
            return None
        return read_file_tokens(path)
    except OSError:
        return None


def file_tokens(beginning: bytes, end: bytes) -> np.ndarray:
    """What the network sees of a file.

    White space is stripped on the left of the beginning and on the right of the end; of each 1,024 bytes are taken, and
    256 fills up what is missing, behind the beginning and before the end.

    Args:
      beginning: the first 4,096 bytes of a file (of a shorter one all of it).
      end: the last 4,096 bytes.

    Returns:
      int32, (2048,).

    Example:
      >>> tokens = file_tokens(b"  ab", b"  ab")
      >>> tokens[:3].tolist(), tokens[-3:].tolist()
      ([97, 98, 256], [32, 97, 98])
    """
    first = np.frombuffer(beginning[:_BLOCK].lstrip()[:BEGINNING], np.uint8)
    last = np.frombuffer(end[-_BLOCK:].rstrip()[-END:], np.uint8)
    tokens = np.full(BEGINNING + END, PADDING, np.int32)
    tokens[: len(first)] = first
    tokens[len(tokens) - len(last) :] = last
    return tokens


def read_file_tokens(path: str | pathlib.Path) -> np.ndarray:
    """`file_tokens` of a file on disk, of which both ends alone are read.

    Args:
      path: of the file.

    Returns:
      int32, (2048,).
    """
    with open(path, "rb") as file:
        beginning = file.read(_BLOCK)
        file.seek(0, 2)
        file.seek(max(file.tell() - _BLOCK, 0))
        return file_tokens(beginning, file.read(_BLOCK))
