"""What a group is, read from the arithmetic it takes part in: channel, neuron, head, head_dim or residual."""

from typing import NamedTuple

from sparsejax.tracing.axes.dataflow import NOTHING, Fact, Flow
from sparsejax.tracing.axes.dims import Dim
from sparsejax.tracing.axes.planned_jaxpr import Step
from sparsejax.tracing.axes.structure import Structure
from sparsejax.tracing.primitives import REDUCE
from sparsejax.tracing.uses.contractions import CONTRACTIONS

KINDS = ("channel", "neuron", "head", "head_dim", "residual")


class Kind(NamedTuple):
    """What a group is, and whether only weights contract its units."""

    name: str
    outgoing: bool


def kinds(structure: Structure) -> dict[int, Kind]:
    """The kind of every prunable atom.

    residual: a sum of two activations that come from different products ties it (the width of a stream).
    head: it numbers independent products of activations with activations, or queries that share a key.
    head_dim: such a product contracts it, or it is the features of its values.
    channel: the output of a convolution. neuron: everything else, such as the hidden units of an FFN.
    """
    found = _find(structure)
    return {atom: Kind(found.kind(atom), atom not in found.contracted) for atom in structure.prunable}


def heads_axes(structure: Structure) -> frozenset[tuple[int, int]]:
    """The axes (leaf, axis) of parameters that number attention heads, prunable or not.

    Grouped queries may stand on one axis as key heads times queries of each. An axis that something else than a
    weight contracts is no head: positions, which attention mixes, can be axes of parameters too.
    """
    found, dims, axes = _find(structure), structure.dims, set()
    for leaf, value in enumerate(structure.leaves):
        for axis, dim in enumerate(value.dims):
            atoms = dims.leaves(dim)
            if atoms and all(map(found.counts_heads, atoms)):
                axes.add((leaf, axis))
    return frozenset(axes)


def _find(structure: Structure) -> "_Found":
    found = _Found(structure)
    inputs = [NOTHING] * len(structure.leaves)
    inputs += [frozenset([-1])] * (len(structure.plan.ins) - len(inputs))
    Flow(found.visit).run(structure.plan, inputs)
    return found


class _Found:
    """Collects, while the walk goes on, where atoms stand; a fact is the products that a value comes from."""

    def __init__(self, structure: Structure) -> None:
        self._dims = structure.dims
        self._residual: set[int] = set()
        self._batch: set[int] = set()
        self.contracted: set[int] = set()  # by something else than weights
        self._paired: set[int] = set()
        self._features: set[int] = set()
        self._free: dict[int, set[int]] = {}

    def visit(self, step: Step, facts: list[Fact]) -> Fact:
        if step.name in CONTRACTIONS:
            if step.name == "conv_general_dilated":
                feature = step.params["dimension_numbers"].out_spec[1]
                self._features |= self._atoms([step.outs[0].dims[feature]])
            elif all(facts):
                self._product_of_activations(step)
            return frozenset([id(step)]) if any(facts) else NOTHING
        if step.name in REDUCE and any(facts):
            self.contracted |= self._atoms([step.ins[0].dims[axis] for axis in step.params["axes"]])
        if step.name == "add" and all(facts) and facts[0] != facts[1]:
            self._residual |= self._atoms(step.outs[0].dims)
        return frozenset().union(*facts)

    def _product_of_activations(self, step: Step) -> None:
        (left_in, right_in), (left_batch, right_batch) = step.params["dimension_numbers"]
        self._batch |= self._atoms([step.ins[0].dims[axis] for axis in left_batch])
        self._paired |= self._atoms([step.ins[0].dims[axis] for axis in left_in])
        self.contracted |= self._paired
        sides = ((step.ins[0], (*left_in, *left_batch)), (step.ins[1], (*right_in, *right_batch)))
        for value, taken in sides:
            dims = [dim for axis, dim in enumerate(value.dims) if axis not in taken]
            for atom in self._atoms(dims):
                self._free.setdefault(atom, set()).add(id(step))

    def _atoms(self, dims: list[Dim] | tuple[Dim, ...]) -> set[int]:
        return self._dims.all_leaves(dims)

    def kind(self, atom: int) -> str:
        if atom in self._residual:
            return "residual"
        # Free in the scores and in their product with the values: query heads that share a key.
        if atom in self._batch or len(self._free.get(atom, ())) > 1:
            return "head"
        if atom in self._paired or atom in self._free:
            return "head_dim"
        return "channel" if atom in self._features else "neuron"

    def counts_heads(self, atom: int) -> bool:
        # Heads that a sum ties, too; not what is free in products of one activation with another and is a stream.
        return atom not in self.contracted and (atom in self._batch or self.kind(atom) == "head")
