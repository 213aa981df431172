"""Tables of text that fit a terminal: what `print` shows of costs, groups and pruning decisions."""

from collections.abc import Sequence

WIDTH = 80
_UNITS = ("", "k", "M", "G", "T", "P")


def table(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Aligns rows of cells into lines of at most 80 columns, by shortening the first cell where needed.

    Args:
      rows: the header first; all of one length.
      left: how many columns are aligned to the left; the rest are numbers.

    Returns:
      The lines.

    Example:
      >>> print("\\n".join(table([("op", "FLOPs"), ("layers/up", "12"), ("head", "3")])))
      op         FLOPs
      layers/up     12
      head           3
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = max(8, min(widths[0], WIDTH - sum(width + 2 for width in widths[1:])))
    lines = []
    for first, *others in rows:
        cells = [shorten(first, widths[0]), *others]
        aligned = [
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join(aligned).rstrip())
    return lines


def shorten(text: str, width: int) -> str:
    """Keeps both ends of a text that is too long, since a path's last words say most.

    Example:
      >>> shorten("encoder/layers/0/attention", 16)
      'encod…/attention'
    """
    if len(text) <= width:
        return text
    tail = (width - 1) * 2 // 3
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"


def count(number: float) -> str:
    """A count in at most six characters: whole up to 9999, then three digits and k, M, G, T or P.

    Example:
      >>> count(1536), count(3_145_728), count(0)
      ('1536', '3.15M', '0')
    """
    if abs(number) < 10_000:
        return f"{number:.0f}"
    power = 0
    while abs(number) >= 999.5 and power < len(_UNITS) - 1:
        number, power = number / 1000, power + 1
    return f"{number:#.3g}".rstrip(".") + _UNITS[power]
