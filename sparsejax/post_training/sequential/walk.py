"""All batches going through a function stage by stage, in the memory of what is live between two stages."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sparsejax.errors import CalibrationError
from sparsejax.post_training.sequential.flat_program import FlatProgram, flatten, layers_of, nbytes
from sparsejax.post_training.sequential.moments import Probe, Totals, collect, make_probe
from sparsejax.post_training.sequential.segments import Compiled, Passage, advance, make_passage
from sparsejax.post_training.sequential.stages import find_stages, stage_range
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.typing import Array, Params


class _Stop(NamedTuple):
    """What one stage takes for batches of one shape."""

    probe: Probe
    onward: Passage | None


class Walk:
    """All batches at one stage of a function: their values in the pruned model, and in the dense one.

    Attributes:
      stages: the pieces that are solved together, in the order of evaluation.
      at: the stage before which the values are; −1 at the beginning.
      weights: for each batch the weights of rows by instruction.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        params: Params,
        batches: Sequence[Any],
        leaves: frozenset[int],
        *,
        paired: bool,
        means: bool = False,
    ) -> None:
        """Traces the function for every shape of batch and puts all batches at the beginning.

        Args:
          fn: ``fn(params, *inputs)``.
          params: its parameters.
          batches: all of them, kept.
          leaves: numbers of the leaves whose layers are tapped.
          paired: whether the dense model runs beside the pruned one.
          means: whether inputs are added up too.

        Raises:
          CalibrationError: a batch that the function does not take, or in whose shape it has other layers.
        """
        self._programs: dict[Any, FlatProgram] = {}
        self._compiled: Compiled = {}
        self._stops: dict[tuple[Any, int], _Stop] = {}
        inputs = [jaxprs.as_tuple(batch) for batch in batches]
        self._shapes = [_shape(batch) for batch in inputs]
        for shape, batch in zip(self._shapes, inputs, strict=True):
            if shape not in self._programs:
                self._programs[shape] = flatten(fn, params, batch, leaves)
        first = self._programs[self._shapes[0]]
        self.stages = find_stages(first)
        self._check()
        self._pruned = [
            dict(zip(self._programs[shape].inputs, jax.tree.leaves(batch), strict=True))
            for shape, batch in zip(self._shapes, inputs, strict=True)
        ]
        self._dense = list(self._pruned) if paired else None
        self._apart, self._means = False, means
        self.at = -1
        self.weights: list[dict[int, Array]] = [{} for _ in batches]

    def _check(self) -> None:
        for shape, program in self._programs.items():
            found = layers_of(program)
            begins = [stage_range(program, stage)[0] for stage in self.stages if set(stage) <= set(found)]
            if set(found) != {piece for stage in self.stages for piece in stage} or begins != sorted(begins):
                raise CalibrationError(
                    f"With a batch of shapes {shape[1]} the function has other layers than with the first, or runs "
                    "them in another order. Give batches through which it takes one way."
                )

    @property
    def programs(self) -> dict[Any, FlatProgram]:
        """The flat program of each shape of batch."""
        return self._programs

    def program_of(self, batch: int) -> FlatProgram:
        """The flat program of a batch."""
        return self._programs[self._shapes[batch]]

    def _stop(self, shape: Any, number: int) -> _Stop:
        if (shape, number) not in self._stops:
            program = self._programs[shape]
            here = stage_range(program, self.stages[number])[0]
            onward = None
            if number + 1 < len(self.stages):
                onward = make_passage(program, here, stage_range(program, self.stages[number + 1])[0])
            self._stops = {key: stop for key, stop in self._stops.items() if key[1] == number}
            self._stops[shape, number] = _Stop(make_probe(program, self.stages[number], self._means), onward)
        return self._stops[shape, number]

    def start(self, leaves: Sequence[Array], dense: Sequence[Array]) -> None:
        """Brings all batches to the first stage.

        Args:
          leaves: the leaves of the pruned model's parameters, as far as they are given.
          dense: those of the dense ones; the same arrays where nothing is pruned before the first stage.
        """
        self._apart = any(a is not b for a, b in zip(leaves, dense, strict=True))
        for i, shape in enumerate(self._shapes):
            program = self._programs[shape]
            passage = make_passage(program, 0, stage_range(program, self.stages[0])[0])
            begin = self._pruned[i]
            self._pruned[i] = advance(passage, leaves, begin, self._compiled)
            if self._dense is not None:
                self._dense[i] = (
                    advance(passage, dense, begin, self._compiled) if self._apart else self._pruned[i]
                )
        self.at = 0

    def collect(
        self, batch: int, leaves: Sequence[Array], dense: Sequence[Array], totals: Totals | None
    ) -> Totals:
        """Adds one batch to the sums of the stage where the walk is.

        Args:
          batch: its number.
          leaves: the leaves of the parameters pruned so far.
          dense: those of the dense ones.
          totals: the sums so far.

        Returns:
          The sums.
        """
        stop = self._stop(self._shapes[batch], self.at)
        paired = self._dense is not None and self._apart
        values = (self._pruned[batch], self._dense[batch] if paired else None)
        return collect(
            stop.probe,
            (leaves, dense if paired else None),
            values,
            self.weights[batch],
            totals,
            self._compiled,
        )

    def advance(self, leaves: Sequence[Array], dense: Sequence[Array]) -> None:
        """Brings all batches to the next stage.

        Args:
          leaves: the leaves of the parameters pruned so far.
          dense: those of the dense ones.
        """
        if self.at + 1 < len(self.stages):
            for i, shape in enumerate(self._shapes):
                onward = self._stop(shape, self.at).onward
                if self._dense is not None:
                    self._dense[i] = advance(onward, dense, self._dense[i], self._compiled)
                self._pruned[i] = advance(onward, leaves, self._pruned[i], self._compiled)
        self._apart = True
        self.at += 1

    @property
    def nbytes(self) -> int:
        """The bytes of the values that are kept for all batches."""
        kept = [*self._pruned, *(self._dense or [])]
        return nbytes(list({id(x): x for values in kept for x in values.values()}.values()))


def _shape(inputs: Any) -> tuple[Any, Any]:
    leaves, structure = jax.tree.flatten(inputs)
    return structure, tuple((np.shape(leaf), str(jax.numpy.result_type(leaf))) for leaf in leaves)
