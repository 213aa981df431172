"""What a group is, read from its arithmetic: channel, neuron, head, head_dim, residual or expert."""

from typing import Any, NamedTuple

from sparsejax.tracing.axes.dataflow import Fact, Flow
from sparsejax.tracing.axes.dims import Dim
from sparsejax.tracing.axes.planned_jaxpr import Step
from sparsejax.tracing.axes.structure import Structure
from sparsejax.tracing.primitives import REDUCE
from sparsejax.tracing.uses.contractions import CONTRACTIONS

KINDS = ("channel", "neuron", "head", "head_dim", "residual", "expert")
# The fact of a value that is made of weights alone; the facts of others are the products with weights behind them.
_WEIGHT = "weight"
_GIVEN = frozenset([-1])  # the fact of an input
_PICKS = ("gather", "dynamic_slice")


class Kind(NamedTuple):
    """What a group is, and whether only weights contract its units."""

    name: str
    outgoing: bool


def kinds(structure: Structure) -> dict[int, Kind]:
    """The kind of every prunable atom.

    expert: it is chosen among, by what `top_k` or argmax says.
    residual: a sum of two activations that come from different products with weights ties it (the width of a
      stream). How activations were multiplied with one another makes no difference: an attention in two parts, or
      one turned by rotary positions, is of one kind.
    head: it numbers independent products of activations with activations, or it stands beside the keys in the scores
      and is still there when they meet the values: queries that share a key.
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
    inputs = [frozenset([_WEIGHT])] * len(structure.leaves)
    inputs += [_GIVEN] * (len(structure.plan.ins) - len(inputs))
    Flow(found.visit).run(structure.plan, inputs)
    return found


class _Found:
    """Collects, while the walk goes on, where atoms stand.

    A fact is the products with weights that a value comes from, and which of its axes were left free by a product
    of activations: ``("free", atom)``.
    """

    def __init__(self, structure: Structure) -> None:
        self._dims = structure.dims
        self._experts = structure.dims.all_leaves(structure.planner.numbering.experts)
        self._residual: set[int] = set()
        self._batch: set[int] = set()
        self.contracted: set[int] = set()  # by something else than weights
        self._paired: set[int] = set()
        self._features: set[int] = set()
        self._free: set[int] = set()
        self._shared: set[int] = set()

    def visit(self, step: Step, facts: list[Fact]) -> Fact:
        behind = [_products(fact) for fact in facts]
        if step.name in CONTRACTIONS:
            return self._product(step, facts, behind)
        if step.name in REDUCE and any(behind):
            self.contracted |= self._atoms([step.ins[0].dims[axis] for axis in step.params["axes"]])
        # What comes from inputs alone, such as a mask of positions, is no stream.
        if step.name == "add" and all(fact - _GIVEN for fact in behind) and behind[0] != behind[1]:
            self._residual |= self._atoms(step.outs[0].dims)
        # What picks from an array is not part of what is picked: a chosen expert's weights are weights.
        if step.name in _PICKS and (step.ins[1].positions or any(step.ins[1].columns)):
            facts = facts[:1]
        elif step.name in _PICKS and any(behind) and _WEIGHT in facts[0] and not behind[0]:
            return frozenset([id(step)])  # a table read by tokens: one product with a one-hot
        return self._alive(step, frozenset().union(*facts))

    def _product(self, step: Step, facts: list[Fact], behind: list[Fact]) -> Fact:
        together = frozenset().union(*facts)
        if step.name == "conv_general_dilated":
            feature = step.params["dimension_numbers"].out_spec[1]
            self._features |= self._atoms([step.outs[0].dims[feature]])
        elif all(behind):
            # Without an axis that is summed over it is an elementwise product: of queries with rotary positions.
            if any(step.params["dimension_numbers"][0]):
                together |= self._product_of_activations(step, facts)
            return self._alive(step, together)
        weighs = any(_WEIGHT in fact and not products for fact, products in zip(facts, behind, strict=True))
        if any(behind) and weighs:
            return self._alive(
                step, frozenset([id(step)]) | {fact for fact in together if type(fact) is tuple}
            )
        return self._alive(step, together)

    def _alive(self, step: Step, fact: Fact) -> Fact:
        """Without the axes that are gone."""
        if not any(type(one) is tuple for one in fact):
            return fact
        here = self._atoms([dim for value in step.outs for dim in value.dims])
        return frozenset(one for one in fact if type(one) is not tuple or one[1] in here)

    def _product_of_activations(self, step: Step, facts: list[Fact]) -> Fact:
        (left_in, right_in), (left_batch, right_batch) = step.params["dimension_numbers"]
        self._batch |= self._atoms([step.ins[0].dims[axis] for axis in left_batch])
        self._paired |= self._atoms([step.ins[0].dims[axis] for axis in left_in])
        self.contracted |= self._paired
        sides = ((step.ins[0], (*left_in, *left_batch)), (step.ins[1], (*right_in, *right_batch)))
        found: set[Any] = set()
        for (value, taken), fact in zip(sides, facts, strict=True):
            free = self._atoms([dim for axis, dim in enumerate(value.dims) if axis not in taken])
            self._shared |= {atom for atom in free if ("free", atom) in fact}
            self._free |= free
            found |= {("free", atom) for atom in free}
        return frozenset(found)

    def _atoms(self, dims: list[Dim] | tuple[Dim, ...]) -> set[int]:
        return self._dims.all_leaves(dims)

    def kind(self, atom: int) -> str:
        if atom in self._experts:
            return "expert"
        if atom in self._batch:
            return "head"
        if atom in self._residual:
            return "residual"
        if atom in self._shared:
            return "head"
        if atom in self._paired or atom in self._free:
            return "head_dim"
        return "channel" if atom in self._features else "neuron"

    def counts_heads(self, atom: int) -> bool:
        # Heads that a sum ties, too; not what is free in products of one activation with another and is a stream.
        return atom not in self.contracted and (atom in self._batch or self.kind(atom) == "head")


def _products(fact: Fact) -> Fact:
    """The products behind an activation; none behind weights and constants."""
    return frozenset(one for one in fact if type(one) is int)
