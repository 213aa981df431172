"""Costs of choices: sums over sites, units by the tracer's account, and measured latency as a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sparsejax.errors import SearchError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.search.problem import Choice, Cost, Site
from sparsejax.tracing.size_costs import SizeAccount


def additive_cost(tables: Sequence[Sequence[float]], rest: float = 0.0) -> Cost:
    """A cost that is a sum over sites.

    ``rest + Σ_i tables[i][choice_i]``

    Args:
      tables: for each site what each level costs.
      rest: what all else costs.

    Returns:
      The cost.

    Example:
      >>> additive_cost([[4, 2], [8, 6]], rest=1)((1, 0))
      11.0
    """
    rows = [tuple(float(value) for value in row) for row in tables]
    return lambda choice: rest + sum(row[level] for row, level in zip(rows, choice, strict=True))


def unit_cost(account: SizeAccount, kept: Mapping[str, Sequence[int]], resource: str) -> Cost:
    """Parameters or multiply-adds of the shrunk function, exactly, where widths of two layers multiply.

    Args:
      account: from `sparsejax.tracing.size_account`.
      kept: group -> units that stay at each level, in the order of the sites.
      resource: ``"parameters"`` or ``"multiply_adds"``.

    Returns:
      The cost.
    """
    rows = list(kept.items())
    return lambda choice: float(
        getattr(account({name: counts[k] for (name, counts), k in zip(rows, choice, strict=True)}), resource)
    )


class LatencyTable(NamedTuple):
    """Measured seconds as a sum over sites; a cost.

    Attributes:
      whole: of the whole model.
      saved: for each site what each level saves; never falling, never below 0.
    """

    whole: float
    saved: tuple[tuple[float, ...], ...]

    def __call__(self, choice: Choice) -> float:
        """Seconds of a choice, at least a hundredth of the whole."""
        total = sum(row[level] for row, level in zip(self.saved, choice, strict=True))
        return max(self.whole - total, 0.01 * self.whole)


def latency_table(
    sites: Mapping[str, Site], measure: Callable[[Choice], float], *, repeats: int = 5
) -> LatencyTable:
    """Measures each level of each site alone, in turns with the whole model.

    ``saved_ik = whole · max_{j ≤ k} median(1 − (i at j)/whole)``, so that noise makes no smaller site slower

    A table, not a measurement a choice, keeps a search deterministic and cheap; save it (it is numbers) and a
    search resumes.

    Args:
      sites: of the problem.
      measure: ``measure(choice) -> seconds`` of one call of the shrunk model.
      repeats: measurements of each, at least 3.

    Returns:
      The table.

    Raises:
      SearchError: a measurement that fails or is no positive number; noise: the smallest model is not faster than
        the whole one by more than the measurements differ among themselves.

    Source: Yang et al., "NetAdapt", arXiv 1804.03230, section 3.2.2 (layer-wise look-up tables). There single layers
    are measured, here the whole function with one site smaller.
    """
    require_numbers(SearchError, least=3, whole=True, repeats=repeats)  # fewer do not show their noise
    levels = [len(site.removed) for site in sites.values()]
    whole, smallest = (0,) * len(levels), tuple(count - 1 for count in levels)
    asked = [whole, smallest] + [
        (*whole[:i], k, *whole[i + 1 :]) for i, count in enumerate(levels) for k in range(1, count)
    ]
    rounds = np.array([[_seconds(measure, choice) for choice in asked] for _ in range(repeats)])
    _check_noise(rounds)
    # Ratios within a round: what else the machine does meets both alike.
    whole_seconds = float(np.median(rounds[:, 0]))
    shares = np.median(1 - rounds / rounds[:, :1], axis=0)
    rest, saved = iter(whole_seconds * shares[2:]), []
    for count in levels:
        row = np.maximum.accumulate([0.0, *(float(next(rest)) for _ in range(1, count))])
        saved.append(tuple(row.tolist()))
    return LatencyTable(whole_seconds, tuple(saved))


def _seconds(measure: Callable[[Choice], float], choice: Choice) -> float:
    try:
        found = float(measure(choice))
    except Exception as error:  # whatever a user's function does
        raise SearchError(
            f"The latency of the choice {choice} cannot be measured: {type(error).__name__}: {error}."
        ) from error
    if not np.isfinite(found) or found <= 0:
        raise SearchError(f"The latency of the choice {choice} is {found}, which is no time.")
    return found


def _check_noise(rounds: np.ndarray) -> None:
    saved = 1 - rounds[:, 1] / rounds[:, 0]  # within a round, so that a machine that slows down is no noise
    spread = float(np.median(np.abs(saved - np.median(saved))))
    if np.median(saved) <= 2 * spread:
        whole, smallest = np.median(rounds[:, :2], axis=0)
        raise SearchError(
            f"The latencies are noise: {whole:.3g} s for the whole model, {smallest:.3g} s for the smallest, whose "
            f"ratio varies by {spread:.2g}. Measure larger batches, more calls, or an idle machine."
        )
