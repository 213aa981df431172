"""The loop over compiled chunks: every group of runs in turn, stopping at a loss that is not finite."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.errors import TrainingError
from experiments.run.chunk import ChunkRecipe, RunChunk
from experiments.run.population import MemberGroup
from experiments.run.state import TrainState
from experiments.run.step import StepMetrics


class Chunk(NamedTuple):
    """What a chunk of steps leaves.

    Attributes:
      states: of each group, after its last step; consumed when the next chunk begins.
      metrics: of its steps, host arrays (steps, members, …); a single run is one member.
      seconds: how long its steps ran, compilation apart.
    """

    states: tuple[TrainState, ...]
    metrics: StepMetrics
    seconds: float


#: ``(group, recipe, state, count) -> program``
Compile = Callable[[MemberGroup, ChunkRecipe, TrainState, int], RunChunk]
#: ``(group, state, metrics) -> state``
Refresh = Callable[[MemberGroup, TrainState, StepMetrics], TrainState]


def train_chunks(
    compile_program: Compile,
    recipes: Sequence[ChunkRecipe],
    groups: Sequence[MemberGroup],
    states: Sequence[TrainState],
    *,
    steps: int,
    chunk: int,
    refresh: Refresh | None = None,
) -> Iterator[Chunk]:
    """Trains up to step `steps`, one compiled program a chunk and group, and yields between chunks.

    Chunks end at multiples of `chunk`, wherever the run began, so that a resumed run does as an unbroken one.
    Groups of one recipe and size share their programs.

    Args:
      compile_program: compiles `count` steps.
      recipes: of each group.
      groups: the runs.
      states: where each group begins; consumed, and so is each yielded state when the next chunk begins.
      steps: the step to stop at.
      chunk: steps between two yields.
      refresh: what to do with each group's state after its chunk, such as new batch statistics.

    Yields:
      What the chunk leaves.

    Raises:
      TrainingError: a loss that is not finite, with its step and member.
    """
    programs: dict[tuple[int, int, int], RunChunk] = {}
    states = list(states)
    done = int(states[0].step)
    while done < steps:
        count = min(chunk - done % chunk, steps - done)
        rows, seconds = [], 0.0
        for i, (group, recipe) in enumerate(zip(groups, recipes, strict=True)):
            key = (id(recipe), len(group.runs), count)  # the last group may be smaller
            if key not in programs:
                programs[key] = compile_program(group, recipe, states[i], count)
            started = time.perf_counter()
            states[i], metrics = programs[key](states[i], group.members)
            rows.append(_with_members(metrics, recipe.population))  # waits for the device
            seconds += time.perf_counter() - started
            if refresh is not None:
                states[i] = refresh(group, states[i], rows[-1])
        metrics = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *rows)
        _check_finite(metrics.loss, done, [run.name for group in groups for run in group.runs])
        done += count
        yield Chunk(tuple(states), metrics, seconds)


def _with_members(metrics: StepMetrics, population: bool) -> StepMetrics:
    host = jax.tree.map(np.asarray, metrics)
    return host if population else jax.tree.map(lambda leaf: leaf[:, None], host)


class NotFinite(TrainingError):
    """A loss that is not finite; says where, so that the layer can be looked for."""

    def __init__(self, text: str, step: int, member: int) -> None:
        super().__init__(text)
        self.step, self.member = step, member


def _check_finite(losses: np.ndarray, first_step: int, names: Sequence[str]) -> None:
    bad = np.argwhere(~np.isfinite(losses))
    if not bad.size:
        return
    row, member = (int(i) for i in bad[0])
    who = f" of member {names[member]}" if len(names) > 1 else ""
    before = f"{losses[row - 1, member]:.4g} one step before" if row else "the first of its chunk"
    raise NotFinite(
        f"The loss{who} is {losses[row, member]} at step {first_step + row} ({before}): lower "
        "config.learning_rate, lengthen config.warmup_steps, set config.clip_norm, or look for invalid input.",
        first_step + row,
        member,
    )
