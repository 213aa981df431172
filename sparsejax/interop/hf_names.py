"""Names of tensors on disk: patterns, layers counted anew, and what every layer and mixture must have."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from sparsejax.errors import FileError
from sparsejax.interop.hf_tables import Config, Family


def matches(key: str, name: str) -> bool:
    """Whether a row of a table, or a part of a name after a dot, is meant by a name."""
    return _pattern(key).search(name) is not None


def renamed(name: str, family: Family) -> str:
    """The name on disk of a tensor's name in memory."""
    for pattern, replacement in family.renames:
        name = re.sub(pattern, replacement, name)
    return name


@lru_cache(maxsize=4096)
def _pattern(key: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|\.){re.escape(key).replace(re.escape('*'), '([0-9]+)')}$")


def _layer(name: str, prefix: str) -> re.Match[str] | None:
    return re.match(rf"((?:.*\.)?{re.escape(prefix)}\.)([0-9]+)(\..*)$", name)


def kept(names: Iterable[str], prefix: str) -> list[int]:
    """The numbers of the layers that there are, in order."""
    return sorted({int(found[2]) for name in names if (found := _layer(name, prefix))})


def numbered(on_disk: Mapping[str, str], family: Family) -> tuple[dict[str, str], Config]:
    """Names with the layers counted anew, and how many layers there are of each list."""
    names, counts = dict(on_disk), {}
    for prefix, field in family.layers.items():
        place = {number: str(i) for i, number in enumerate(kept(on_disk.values(), prefix))}
        counts |= {field: len(place)} if place else {}
        for name, stored in names.items():
            if found := _layer(stored, prefix):
                names[name] = f"{found[1]}{place[int(found[2])]}{found[3]}"
    return names, counts


def check_layers(names: Iterable[str], family: Family) -> None:
    """Every layer must have the tensors of the others."""
    for prefix in family.layers:
        layers: dict[int, set[str]] = {}
        for name in names:
            if found := _layer(name, prefix):
                layers.setdefault(int(found[2]), set()).add(found[3])
        every = {name for has in layers.values() for name in has if ".experts." not in name}
        for number, has in layers.items():
            missing = sorted(name for name in every - has if _needed(name, number, family))
            if missing:
                raise FileError(
                    f"Layer {number} of {prefix!r} has no {missing[0][1:]!r}, which others have: a checkpoint drops "
                    "whole layers, not branches. Drop both of its branches, or keep the layer and mask the branch "
                    "(branch_masks), which saves zeros."
                )


def check_experts(names: Iterable[str], family: Family, new: Config) -> None:
    """Experts that stand one by one, as on disk, are all there, counted from 0."""
    found: dict[str, set[int]] = {}
    for name in names:
        if one := re.match(r"(.*\.experts)\.([0-9]+)\.", name):
            found.setdefault(one[1], set()).add(int(one[2]))
    for place, numbers in found.items():
        if numbers != set(range(new[family.count[0]])):
            raise FileError(
                f"{place!r} has the experts {sorted(numbers)}, and {family.count[0]} is {new[family.count[0]]}: count "
                "those that stay from 0, in every layer as many."
            )


def _needed(name: str, number: int, family: Family) -> bool:
    if name.endswith("relative_attention_bias.weight"):
        return number == 0
    return not (family.count and ".mlp." in name)  # dense and sparse layers of a mixture
