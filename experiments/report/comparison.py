"""What a grid of methods, sparsities and seeds says: means with intervals, paired differences, a markdown table."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.errors import ConfigError
from experiments.report.statistics import Interval, interval, paired_gain, resolvable_difference, verdict
from experiments.report.tables import markdown_table


class Cell(NamedTuple):
    """The seeds of one method at one sparsity.

    Attributes:
      row: the method's name.
      sparsity: its column; None for the dense network, which stands in every one.
      seeds: of each value.
      values: the metric of each seed.
      nonzero: parameters that are not zero, mean over the seeds.
      training_flops: of a run, mean over the seeds.
      inference_flops: of an example, mean over the seeds.
      reached: the sparsity that the method came to, mean over the seeds; None where it is not known.
    """

    row: str
    sparsity: float | None
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    nonzero: float
    training_flops: float
    inference_flops: float
    reached: float | None = None


class Comparison(NamedTuple):
    """How two methods differ, seed by seed.

    Attributes:
      better: the method that is expected to be better.
      worse: the other.
      sparsity: at which.
      gain: of `better` over `worse` in the metric, positive where it is indeed better.
    """

    better: str
    worse: str
    sparsity: float
    gain: Interval

    @property
    def verdict(self) -> str:
        """Whether the seeds tell the two apart, and which way."""
        return verdict(self.gain)


def paired_comparisons(
    cells: Sequence[Cell], better: str, worse: str, sparsity: float, *, lower: bool
) -> Comparison:
    """Compares two methods by the differences between runs of the same seed.

    Args:
      cells: of a study.
      better: the row that is expected to be better.
      worse: the row that it is compared with.
      sparsity: the column.
      lower: whether a lower metric is better.

    Returns:
      The comparison, with Student's 95 % interval of the mean difference.

    Raises:
      ConfigError: a row that is not there, or seeds that differ.
    """
    first, second = find_cell(cells, better, sparsity), find_cell(cells, worse, sparsity)
    if first.seeds != second.seeds:
        raise ConfigError(f"{better} has seeds {first.seeds}, {worse} has {second.seeds}: run the same ones.")
    gain = paired_gain(first.values, second.values, lower=lower)
    return Comparison(better, worse, sparsity, gain)


def find_cell(cells: Sequence[Cell], row: str, sparsity: float) -> Cell:
    """Finds a method's cell at a sparsity; the dense network's is the same at all.

    Raises:
      ConfigError: it is not there.
    """
    for cell in cells:
        if cell.row == row and cell.sparsity in (None, sparsity):
            return cell
    raise ConfigError(f"The study has no {row!r} at sparsity {sparsity}; its rows are {rows_of(cells)}.")


def rows_of(cells: Sequence[Cell]) -> list[str]:
    """The methods' names in the order of the study."""
    return list(dict.fromkeys(cell.row for cell in cells))


def cell_table(cells: Sequence[Cell], sparsities: Sequence[float], *, metric: str, digits: int = 3) -> str:
    """Renders the study as markdown: a row for each method, three columns for each sparsity.

    Args:
      cells: of the study; the first one's FLOPs are what the others' are shares of.
      sparsities: the columns.
      metric: its name.
      digits: after the point.

    Returns:
      The table, and below it what differences its seeds can resolve.
    """
    dense = cells[0]
    head = ["method"]
    for s in sparsities:
        head += [f"{metric} at {100 * s:g} %", "training FLOPs", "inference FLOPs"]
    lines = []
    for row in rows_of(cells):
        line = [row]
        for s in sparsities:
            found = next((c for c in cells if c.row == row and c.sparsity in (None, s)), None)
            line += ["", "", ""] if found is None else _texts(found, dense, digits)
        lines.append(line)
    text = markdown_table(head, lines)
    notes = [
        f"{100 * s:g} %: {resolvable(cells, s):.{digits}f}" for s in sparsities if len(_groups(cells, s)) > 1
    ]
    return (
        f"{text}\n\nMean ± 95 % interval of {len(dense.values)} seeds; FLOPs as shares of the dense network's. "
        f"Two methods of one column that differ by less than this are not told apart: {', '.join(notes)}."
    )


def resolvable(cells: Sequence[Cell], sparsity: float) -> float:
    """The smallest difference between two methods at a sparsity that the seeds tell from chance."""
    return resolvable_difference(_groups(cells, sparsity))


def comparison_table(comparisons: Sequence[Comparison], *, metric: str, digits: int = 3) -> str:
    """Renders the expected orderings and what the seeds say of them, as markdown."""
    head, lines = ["expected", "sparsity", f"gain in {metric}, paired by seed", ""], []
    for c in comparisons:
        gain = f"{c.gain.mean:+.{digits}f} ± {c.gain.half_width:.{digits}f}"
        lines.append([f"{c.better} better than {c.worse}", f"{100 * c.sparsity:g} %", gain, c.verdict])
    return markdown_table(head, lines)


def by_name(cells: Sequence[Cell]) -> Mapping[str, list[Cell]]:
    """Groups the cells by row."""
    return {row: [cell for cell in cells if cell.row == row] for row in rows_of(cells)}


def _groups(cells: Sequence[Cell], sparsity: float) -> list[tuple[float, ...]]:
    return [cell.values for cell in cells if cell.sparsity in (None, sparsity)]


def _texts(cell: Cell, dense: Cell, digits: int) -> list[str]:
    mean = interval(cell.values)
    # A penalty comes near a sparsity, and no more: then the table says where it came to.
    apart = None not in (cell.sparsity, cell.reached) and abs(cell.sparsity - cell.reached) > 0.005
    where = f" (at {100 * cell.reached:.1f} %)" if apart else ""
    return [
        f"{mean.mean:.{digits}f} ± {mean.half_width:.{digits}f}{where}",
        f"{cell.training_flops / dense.training_flops:.3f}×",
        f"{cell.inference_flops / dense.inference_flops:.3f}×",
    ]
