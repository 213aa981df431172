"""Sensitivity: what is lost when one site alone is lowered, level by level."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sparsejax.errors import SearchError
from sparsejax.search.problem import Choice, Problem, Request, check_problem
from sparsejax.tracing.tables import WIDTH, table


class Sensitivity(NamedTuple):
    """Losses of single sites.

    Attributes:
      removed: site -> the share that goes at each level.
      losses: site -> the loss at each level, the others being as in `base`.
      base: the choice around which it was measured.
      base_loss: of it.
      kinds: site -> its kind.
    """

    removed: Mapping[str, tuple[float, ...]]
    losses: Mapping[str, tuple[float, ...]]
    base: Choice
    base_loss: float
    kinds: Mapping[str, str]

    def tolerated(self, rise: float) -> dict[str, float]:
        """The largest share of each site that can go before the loss rises by more than `rise`."""
        found = {}
        for name, losses in self.losses.items():
            pairs = zip(self.removed[name], losses, strict=True)
            found[name] = max((share for share, loss in pairs if loss - self.base_loss <= rise), default=0.0)
        return found

    def __str__(self) -> str:
        """Sites with the rise of the loss at each level, within 80 columns.

        A table, a row a site and a column a level; or, where that is too wide for their names, a paragraph a site.
        """
        cells = {
            name: [
                f"{loss - self.base_loss:+.4f} at {share:.0%}"
                for share, loss in zip(self.removed[name], losses, strict=True)
            ]
            for name, losses in self.losses.items()
        }
        width = max(map(len, self.removed.values()))
        rows = [("site", "kind", *(f"level {k}" for k in range(width)))]
        rows += [(name, self.kinds[name], *row, *[""] * (width - len(row))) for name, row in cells.items()]
        if sum(2 + max(map(len, column)) for column in zip(*rows, strict=True)) - 2 <= WIDTH:
            return "\n".join(table(rows, left=2))
        lines = []
        for name, row in cells.items():
            lines.append(f"{name} ({self.kinds[name]})")
            lines += textwrap.wrap(
                "  ".join(cell.replace(" ", "\0") for cell in row), WIDTH,
                initial_indent="    ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
        return "\n".join(lines).replace("\0", " ")


def sensitivity(
    problem: Problem, *, base: Choice | None = None, names: Sequence[str] | None = None
) -> Sensitivity:
    """Evaluates every level of every site alone, all in one batch of requests.

    Args:
      problem: any.
      base: the choice that the other sites keep; None: whole.
      names: of sites; None: all.

    Returns:
      The losses.

    Raises:
      SearchError: nothing to choose, or a name that is no site.

    Example:
      >>> from sparsejax.search import Problem, Site
      >>> problem = Problem({"a": Site((0.0, 0.5))}, {}, lambda rs: [1.0 + sum(r.choice) for r in rs])
      >>> sensitivity(problem).losses
      {'a': (1.0, 2.0)}
    """
    check_problem(problem)
    base = (0,) * len(problem.sites) if base is None else base
    order = {name: number for number, name in enumerate(problem.sites)}
    names = list(problem.sites) if names is None else list(names)
    if unknown := sorted(set(names) - set(order)):
        raise SearchError(f"There is no site {unknown[0]!r}; there are: {', '.join(order)}.")
    asked = [Request(base)]
    for name in names:
        i = order[name]
        asked += [Request((*base[:i], k, *base[i + 1 :])) for k in range(problem.levels[i])]
    unique = list(dict.fromkeys(asked))
    known = dict(zip(unique, map(float, problem.loss(unique)), strict=True))
    rest = iter(asked[1:])
    losses = {name: tuple(known[next(rest)] for _ in problem.sites[name].removed) for name in names}
    removed = {name: problem.sites[name].removed for name in names}
    kinds = {name: problem.sites[name].kind for name in names}
    return Sensitivity(removed, losses, base, known[asked[0]], kinds)
