"""Which parameter a leaf of another tree belongs to: gradients, masks, and the moments inside an optimizer's state."""

from collections.abc import Collection, Sequence


def owners(paths: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """Finds for the leaves of a tree the parameters that they belong to.

    A tree like the parameters may stand anywhere inside (``0/mu/…``). Where one that has all `known` paths does, its
    leaves are those and nothing else: ``0/mu/b/w`` is not the parameter ``w`` although its path ends so. Elsewhere
    a leaf belongs to the parameter whose path its own path ends with, the longest one.

    Args:
      paths: of the leaves.
      known: paths of parameters.

    Returns:
      Path of a leaf -> path of its parameter, for those that have one.

    Example:
      >>> owners(["count", "mu/w", "mu/c", "mu/b/w"], ["w", "c"])
      {'mu/w': 'w', 'mu/c': 'c'}
    """
    wanted = set(known)
    candidates = {path: _suffixes(path, wanted) for path in paths}
    held: dict[str, set[str]] = {}
    for path, suffixes in candidates.items():
        for suffix in suffixes:
            held.setdefault(path.removesuffix(suffix), set()).add(suffix)
    roots: list[str] = []
    for root in sorted((root for root, found in held.items() if found == wanted), key=len):
        if not any(root.startswith(outer) for outer in roots):
            roots.append(root)
    found = {}
    for path, suffixes in candidates.items():
        root = next((root for root in roots if path.startswith(root)), None)
        if root is None and suffixes:
            found[path] = suffixes[0]
        elif root is not None and path.removeprefix(root) in wanted:
            found[path] = path.removeprefix(root)
    return found


def _suffixes(path: str, wanted: set[str]) -> list[str]:
    """The endings of a path that are among the wanted ones, the longest first."""
    names = path.split("/")
    endings = ("/".join(names[start:]) for start in range(len(names)))
    return [ending for ending in endings if ending in wanted]
