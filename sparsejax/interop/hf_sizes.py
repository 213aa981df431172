"""Fields of config.json solved from the shapes of tensors; axes that disagree are named."""

from collections.abc import Iterator, Mapping
from typing import Any

from sparsejax.errors import FileError
from sparsejax.interop.hf_names import matches
from sparsejax.interop.hf_tables import Axis, Config, Family

Shapes = Mapping[str, tuple[int, ...]]
_ALIKE = (
    "config.json has one number for all layers. Cut all layers alike (channel_ratio=, across='uniform'), or keep the "
    "layers whole and put units to zero with masks."
)


def solved(sizes: Shapes, family: Family, new: Config) -> dict[str, int]:
    """Field -> its new number: each axis that leaves one field open says it, and every other must agree."""
    axes = list(_axes(sizes, family, new))
    known: dict[str, tuple[int, str]] = (
        {family.head_dim: (new[family.head_dim], "config")} if family.heads else {}
    )
    while axes:
        left = [one for one in axes if not _read(*one, known, new)]
        if len(left) == len(axes):
            break
        axes = left
    return {field: value for field, (value, _) in known.items()}


def _axes(sizes: Shapes, family: Family, new: Config) -> Iterator[tuple[str, int, Axis]]:
    table = family.table(new)
    for name, shape in sizes.items():
        key = _key(name, table)
        if key is None:
            continue
        if len(shape) != len(table[key]):
            raise FileError(
                f"{name!r} has shape {shape}; {new['model_type']} has {len(table[key])} axes there."
            )
        for number, (size, axis) in enumerate(zip(shape, table[key], strict=True)):
            if axis is not None:
                yield (
                    f"{name!r} {shape}, axis {number}",
                    size,
                    Axis((axis,)) if isinstance(axis, str) else axis,
                )


def _key(name: str, table: Mapping[str, Any]) -> str | None:
    return max((key for key in table if matches(key, name)), key=len, default=None)


def check_unknown(sizes: Shapes, family: Family, new: Config, old: Config) -> None:
    """Tensors without a row in the table pass while nothing was cut."""
    changed = [field for field in new if new[field] != old.get(field) and field not in family.layers.values()]
    table = family.table(new)
    unknown = [name for name in sizes if _key(name, table) is None] if changed else []
    if unknown:
        raise FileError(
            f"{unknown[0]!r} {sizes[unknown[0]]} is not among the tensors known of {new['model_type']}: whether it "
            f"fits the new {changed[0]} cannot be told. Leave it out, and load it by hand."
        )


def _read(where: str, size: int, axis: Axis, known: dict[str, tuple[int, str]], new: Config) -> bool:
    """Reads a field from an axis, or checks that it agrees; False where more than one field is open."""
    unit = new[axis.unit] if axis.unit else 1
    open_fields = {field for field in axis.fields if field not in known}
    if len(open_fields) > 1 or (open_fields and axis.divisor > 1):
        return False
    if size * axis.divisor % unit:
        raise FileError(
            f"{where}: {size} is no whole number of heads of {unit} features ({axis.unit}). Cut whole heads; where "
            "features inside heads went, give fn=, the function that shrink returned."
        )
    total = size // unit
    if not open_fields:
        expected = sum(known[field][0] for field in axis.fields)
        if total != expected // axis.divisor:
            _disagree(where, size, axis, known, expected * unit // axis.divisor)
        return True
    (field,) = open_fields
    rest = total - sum(known[other][0] for other in axis.fields if other in known)
    value, remainder = divmod(rest, axis.fields.count(field))
    if remainder or value < 1:
        raise FileError(
            f"{where}: {size} does not come out as {' + '.join(axis.fields)}; were all parts cut alike?"
        )
    known[field] = value, where
    return True


def _disagree(where: str, size: int, axis: Axis, known: dict[str, tuple[int, str]], expected: int) -> None:
    fields = " + ".join(dict.fromkeys(axis.fields))
    by = {known[field][1] for field in axis.fields}
    raise FileError(
        f"{where}: the size {size} is {fields} in config.json, which comes to {expected} by "
        f"{', '.join(sorted(by))}. {_ALIKE}"
    )
