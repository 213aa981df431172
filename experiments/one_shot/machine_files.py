"""The files of this machine as a labelled data set: by extension, without duplicates, parted by the hash of content."""

import hashlib
import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.errors import ConfigError
from experiments.one_shot.magika import tokens_of

#: Magika's kind by extension. Perl's are left out: data tables and plain text carry its endings too.
KINDS = {
    ".bmp": "bmp",
    ".bz2": "bzip",
    ".c": "c",
    ".cmake": "cmake",
    ".cpp": "cpp",
    ".css": "css",
    ".csv": "csv",
    ".gif": "gif",
    ".gz": "gzip",
    ".h5": "h5",
    ".html": "html",
    ".ipynb": "ipynb",
    ".jar": "jar",
    ".java": "java",
    ".jpg": "jpeg",
    ".js": "javascript",
    ".json": "json",
    ".lua": "lua",
    ".m4": "m4",
    ".md": "markdown",
    ".npy": "npy",
    ".npz": "npz",
    ".pdf": "pdf",
    ".php": "php",
    ".png": "png",
    ".po": "po",
    ".proto": "proto",
    ".ps": "postscript",
    ".py": "python",
    ".pyc": "pythonbytecode",
    ".rst": "rst",
    ".scss": "scss",
    ".sh": "shell",
    ".so": "elf",
    ".sql": "sql",
    ".svg": "svg",
    ".tcl": "tcl",
    ".toml": "toml",
    ".ts": "typescript",
    ".ttf": "ttf",
    ".wav": "wav",
    ".woff": "woff",
    ".woff2": "woff2",
    ".xml": "xml",
    ".xz": "xz",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".zip": "zip",
}
_LEAST_BYTES, _MOST_BYTES = 64, 16 * 2**20


class Files(NamedTuple):
    """Labelled files.

    Attributes:
      tokens: int32 (files, 2048).
      labels: int32 (files,), indices of the kinds of the network.
      digest: a hash of all contents and labels: two machines with the same digest have the same data.
      counts: files by kind.
    """

    tokens: np.ndarray
    labels: np.ndarray
    digest: str
    counts: dict[str, int]


def gather(folders: Iterable[str], kinds: Sequence[str], per_kind: int) -> Files:
    """Reads files below some folders, each content once, in the order of the hash of their content.

    Args:
      folders: where to look; links are not followed.
      kinds: the network's.
      per_kind: the most of a kind.

    Returns:
      The files; any cut through them parts contents at random and never has one content on both sides.

    Raises:
      ConfigError: none is there.
    """
    by_kind: dict[str, dict[str, np.ndarray]] = {}
    # Of a kind with many files, those whose path has the lowest hash: which are read does not depend on the disk.
    for path, kind in sorted(_paths(folders), key=lambda entry: _hash(str(entry[0]).encode())):
        own = by_kind.setdefault(kind, {})
        if len(own) >= per_kind:
            continue
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if content.strip():
            own.setdefault(_hash(content), tokens_of(content))
    rows = sorted(
        (digest, kinds.index(kind), tokens) for kind, own in by_kind.items() for digest, tokens in own.items()
    )
    seen: Counter[str] = Counter(digest for digest, _, _ in rows)
    rows = [row for row in rows if seen[row[0]] == 1]  # one content under two endings has no label
    if not rows:
        raise ConfigError(f"There are no files with known endings below {', '.join(folders)}.")
    labels = np.array([label for _, label, _ in rows], np.int32)
    digest = _hash("".join(f"{name}{label}" for name, label, _ in rows).encode())
    counts = Counter(kinds[label] for label in labels)
    return Files(np.stack([t for _, _, t in rows]), labels, digest, dict(sorted(counts.items())))


def _paths(folders: Iterable[str]) -> Iterable[tuple[pathlib.Path, str]]:
    for folder in folders:
        for place, _, names in os.walk(os.path.expanduser(folder)):
            for name in names:
                kind = KINDS.get(os.path.splitext(name)[1].lower())
                path = pathlib.Path(place, name)
                if kind is None or path.is_symlink() or not path.is_file():
                    continue
                if _LEAST_BYTES <= path.stat().st_size <= _MOST_BYTES:
                    yield path, kind


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
