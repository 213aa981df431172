"""The runs of a configuration: one, or seeds × sparsities × penalties × rates in groups that share a program."""

import itertools
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.run.state import Member, make_member, stack_members


class Run(NamedTuple):
    """One member of a population, as numbers.

    Attributes:
      seed: what its random keys are drawn from.
      sparsity: its final sparsity.
      learning_rate: its peak.
      penalty_weight: where a penalty sets the sparsity, its weight; else 0.
    """

    seed: int
    sparsity: float
    learning_rate: float
    penalty_weight: float = 0.0

    @property
    def name(self) -> str:
        """Names its directory."""
        penalty = f"-penalty_{self.penalty_weight:g}" if self.penalty_weight else ""
        return f"seed_{self.seed}-sparsity_{self.sparsity:g}-rate_{self.learning_rate:g}{penalty}"

    def member(self) -> Member:
        """Draws its keys."""
        return make_member(self.seed, self.learning_rate, self.sparsity, self.penalty_weight)


class MemberGroup(NamedTuple):
    """Members that are computed together.

    Attributes:
      runs: their numbers.
      members: their keys and learning rates; with a leading axis in a population.
      sparsity: what the recipe takes: a number, or float64 (members,).
    """

    runs: tuple[Run, ...]
    members: Member
    sparsity: float | np.ndarray


def runs_of(config: ConfigDict) -> tuple[Run, ...]:
    """Lists the runs of a configuration: sparsities outermost, then penalties, learning rates, seeds.

    Args:
      config: a valid configuration.

    Returns:
      One run, or the members of the population.

    Example:
      >>> from experiments.config.fields import default_config
      >>> config = default_config()
      >>> config.population, config.learning_rates = 2, (0.1, 0.2)
      >>> [(run.seed, run.learning_rate) for run in runs_of(config)]
      [(0, 0.1), (1, 0.1), (0, 0.2), (1, 0.2)]
    """
    seeds = range(config.seed, config.seed + max(config.population, 1))
    sparsities = config.sparsities or (config.sparsity,)
    rates = config.learning_rates or (config.learning_rate,)
    penalties = config.penalty_weights or (config.penalty_weight,)
    return tuple(
        Run(seed, float(sparsity), float(rate), float(penalty))
        for sparsity, penalty, rate, seed in itertools.product(sparsities, penalties, rates, seeds)
    )


def groups_of(config: ConfigDict, *, stepwise: bool) -> tuple[MemberGroup, ...]:
    """Cuts a population into groups of `config.population_chunk` members.

    Args:
      config: a valid configuration.
      stepwise: whether the host takes the steps; then a chunk of 0 means one member a group.

    Returns:
      The groups; a single run is one group without an axis of members.
    """
    runs = runs_of(config)
    if not config.population:
        return (MemberGroup(runs, runs[0].member(), runs[0].sparsity),)
    size = config.population_chunk or (1 if stepwise else len(runs))
    return tuple(_group(runs[start : start + size]) for start in range(0, len(runs), size))


def _group(runs: tuple[Run, ...]) -> MemberGroup:
    members = stack_members([run.member() for run in runs])
    sparsities = np.array([run.sparsity for run in runs])
    alike = bool((sparsities == sparsities[0]).all())
    return MemberGroup(runs, members, float(sparsities[0]) if alike else sparsities)
