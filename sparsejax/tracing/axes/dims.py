"""The algebra of dimensions: an axis is an atom, a product of dimensions, or a sum (concatenation) of them.

An atom is refined by binding it to a tree. Three operations do everything: `factor` (a reshape), `segments`
(split, slice, concatenate) and `unify` (two axes that must stay equal). Identity is never size, so axes of
equal size that have nothing to do with each other stay apart. Size 1 is never an atom. A size may be symbolic
(`jax.export`); such axes come from inputs and are frozen.
"""

import itertools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Union

import jax.export
import numpy as np

from sparsejax.errors import TracingError


@dataclass(frozen=True, slots=True)
class Product:
    """A row-major product: the last part varies fastest."""

    parts: tuple["Dim", ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """Parts one after the other."""

    parts: tuple["Dim", ...]


Dim = Union[int, Product, Sum]  # noqa: UP007  (an int is an atom; the union is recursive)
ONE = Product(())


class Reason(NamedTuple):
    """Why an atom may not be pruned; the equation that says so, then those around it."""

    text: str
    eqns: tuple[Any, ...] = ()


class Kept(NamedTuple):
    """How many positions of an atom are kept; `mask` is None where each scanned layer keeps its own."""

    count: int
    mask: np.ndarray | None


Keep = Mapping[int, Kept]


class Dims:
    """All atoms of one analysis: their sizes, what they are bound to, and why they are frozen."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.bound: list[Dim | None] = []
        self.frozen: list[Reason | None] = []

    def atom(self, size: int, reason: Reason | None = None) -> Dim:
        """A new atom; sizes 0 and 1 are not for pruning."""
        if size == 1:
            return ONE
        self.sizes.append(size if jax.export.is_symbolic_dim(size) else int(size))
        self.bound.append(None)
        self.frozen.append(reason or (Reason("empty axis") if size == 0 else None))
        return len(self.sizes) - 1

    def atoms(self, shape: Iterable[int], reason: Reason | None = None) -> tuple[Dim, ...]:
        """A new atom for each size of a shape."""
        return tuple(self.atom(size, reason) for size in shape)

    def resolve(self, dim: Dim) -> Dim:
        """Replaces bound atoms; products within products and sums within sums are flattened."""
        if isinstance(dim, int):
            target = self.bound[dim]
            if target is None:
                return dim
            self.bound[dim] = target = self.resolve(target)
            return target
        kind = type(dim)
        parts: list[Dim] = []
        for part in dim.parts:
            part = self.resolve(part)
            if isinstance(part, kind):
                parts += part.parts
            else:
                parts.append(part)
        return parts[0] if len(parts) == 1 else kind(tuple(parts))

    def size(self, dim: Dim) -> int:
        """How long an axis of this dimension is."""
        if isinstance(dim, int):
            return self.sizes[dim]
        sizes = [self.size(part) for part in dim.parts]
        return math.prod(sizes) if isinstance(dim, Product) else sum(sizes)

    def leaves(self, dim: Dim) -> set[int]:
        """The unbound atoms of a dimension."""
        dim = self.resolve(dim)
        return {dim} if isinstance(dim, int) else set().union(*(self.leaves(part) for part in dim.parts))

    def all_leaves(self, dims: Iterable[Dim]) -> set[int]:
        """The unbound atoms of several dimensions."""
        return set().union(*(self.leaves(dim) for dim in dims))

    def freeze(self, dim: Dim, reason: Reason) -> None:
        """Keeps all atoms of `dim` whole; the first reason is the one that is told."""
        for atom in self.leaves(dim):
            self.frozen[atom] = self.frozen[atom] or reason

    def bind(self, atom: int, dim: Dim) -> None:
        """Refines an atom; what froze it freezes the tree that stands for it."""
        if atom in self.leaves(dim):
            self.freeze(dim, Reason("an axis that would be part of itself"))
            return
        self.bound[atom] = dim
        reason = self.frozen[atom]
        if reason is not None:
            self.freeze(dim, reason)

    # ---- the three operations

    def factor(self, dim: Dim, sizes: Sequence[int]) -> list[Dim] | None:
        """Dimensions of these sizes whose row-major product is `dim`; None where it cannot be cut so."""
        dim = self.resolve(dim)
        queue = list(dim.parts) if isinstance(dim, Product) else [dim]
        factors: list[Dim] = []
        for size in sizes:
            taken: list[Dim] = []
            while size != 1:
                if not queue:
                    return None
                part = self.resolve(queue.pop(0))
                n = self.size(part)
                if isinstance(part, Product):
                    queue = [*part.parts, *queue]
                elif size % n == 0:
                    taken.append(part)
                    size //= n
                else:
                    halves = self._halve(part, size, n // size) if n % size == 0 else None
                    if halves is None:
                        return None
                    queue = [*halves, *queue]
            factors.append(self.resolve(Product(tuple(taken))))
        return factors if all(self.size(self.resolve(part)) == 1 for part in queue) else None

    def _halve(self, part: Dim, major: int, minor: int) -> tuple[Dim, Dim] | None:
        """Cuts an atom or a sum into (major, minor)."""
        if isinstance(part, int):
            pair = (self.atom(major), self.atom(minor))
            self.bind(part, Product(pair))
            return pair
        if any(self.size(piece) % minor for piece in part.parts):
            return None
        cut = [self.factor(piece, (self.size(piece) // minor, minor)) for piece in part.parts]
        if any(pair is None for pair in cut):
            return None
        for pair in cut[1:]:
            self.unify(cut[0][1], pair[1], Reason("parts of a concatenation cut alike"))
        return self.resolve(Sum(tuple(pair[0] for pair in cut))), cut[0][1]

    def segments(self, dim: Dim, sizes: Sequence[int]) -> list[Dim] | None:
        """Consecutive segments of these sizes, which together are `dim`; None where it cannot be cut so."""
        dim = self.resolve(dim)
        if len(sizes) == 1:
            return [dim]
        if isinstance(dim, int):
            parts = self.atoms(sizes)
            self.bind(dim, Sum(parts))
            return list(parts)
        if isinstance(dim, Product):
            return self._segments_of_product(dim, sizes)
        queue, found = list(dim.parts), []
        for size in sizes:
            taken: list[Dim] = []
            while size:
                part = self.resolve(queue.pop(0))
                n = self.size(part)
                if n > size:
                    cut = self.segments(part, (size, n - size))
                    if cut is None:
                        return None
                    part, n = cut[0], size
                    queue.insert(0, cut[1])
                taken.append(part)
                size -= n
            found.append(self.resolve(Sum(tuple(taken))))
        return found

    def _segments_of_product(self, dim: Product, sizes: Sequence[int]) -> list[Dim] | None:
        if not dim.parts:
            return None
        rest = dim.parts[1:]
        inner = math.prod(self.size(part) for part in rest)
        if any(size % inner for size in sizes):
            return None
        cut = self.segments(dim.parts[0], [size // inner for size in sizes])
        return cut and [self.resolve(Product((part, *rest))) for part in cut]

    def unify(self, a: Dim, b: Dim, reason: Reason) -> None:
        """Makes two axes one: their common refinement, atom by atom. What does not refine is frozen."""
        a, b = self.resolve(a), self.resolve(b)
        if a == b:
            return
        if self.size(a) != self.size(b):
            sizes = f"{self.size(a)} and {self.size(b)}"
            raise TracingError(f"Axes of sizes {sizes} cannot be one: {reason.text}.")
        if isinstance(a, int) and isinstance(b, int):
            # The older atom stays, since a keep may already refer to it.
            self.bind(max(a, b), min(a, b))
        elif isinstance(a, int):
            self.bind(a, b)
        elif isinstance(b, int):
            self.bind(b, a)
        else:
            self._unify_trees(a, b, reason)

    def _unify_trees(self, a: Product | Sum, b: Product | Sum, reason: Reason) -> None:
        kind = Sum if Sum in (type(a), type(b)) else Product
        cuts = sorted({cut for dim in (a, b) if isinstance(dim, kind) for cut in self._cuts(dim)})
        if kind is Sum:
            steps = [high - low for low, high in zip([0, *cuts], cuts, strict=False)]
            xs, ys = self.segments(a, steps), self.segments(b, steps)
        elif any(high % low for low, high in itertools.pairwise(cuts)):
            xs = ys = None
        else:
            steps = [high // low for low, high in zip([1, *cuts], cuts, strict=False)]
            xs, ys = self.factor(a, steps), self.factor(b, steps)
        if xs is None or ys is None:
            why = Reason(f"{reason.text}: its axes are cut in ways that do not fit", reason.eqns)
            self.freeze(a, why)
            self.freeze(b, why)
            return
        for x, y in zip(xs, ys, strict=True):
            self.unify(x, y, reason)

    def _cuts(self, dim: Product | Sum) -> list[int]:
        sizes = [self.size(part) for part in dim.parts]
        return list(itertools.accumulate(sizes, operator.mul if isinstance(dim, Product) else operator.add))

    # ---- under a keep

    def mask(self, dim: Dim, keep: Keep) -> np.ndarray:
        """Which positions of the axis are kept."""
        dim = self.resolve(dim)
        if isinstance(dim, int):
            if dim not in keep:
                return np.ones(self.sizes[dim], bool)
            mask = keep[dim].mask
            if mask is None:
                raise TracingError(
                    "A group that each scanned layer prunes its own way reached a shared array."
                )
            return mask
        masks = [self.mask(part, keep) for part in dim.parts]
        if isinstance(dim, Sum):
            return np.concatenate(masks)
        out = np.ones(1, bool)
        for mask in masks:
            out = (out[:, None] & mask).reshape(-1)
        return out

    def new_size(self, dim: Dim, keep: Keep) -> int:
        """How long the axis is when only kept positions remain."""
        dim = self.resolve(dim)
        if isinstance(dim, int):
            return keep[dim].count if dim in keep else self.sizes[dim]
        sizes = [self.new_size(part, keep) for part in dim.parts]
        return math.prod(sizes) if isinstance(dim, Product) else sum(sizes)

    def index(self, dim: Dim, atom: int) -> np.ndarray | None:
        """For each position of the axis, which position of the atom it is, or −1.

        None where the atom stands twice in one product, so that a position belongs to two of its positions.
        """
        dim = self.resolve(dim)
        if isinstance(dim, int):
            return np.arange(self.sizes[dim]) if dim == atom else np.full(self.sizes[dim], -1)
        maps = [self.index(part, atom) for part in dim.parts]
        if any(found is None for found in maps):
            return None
        if isinstance(dim, Sum):
            return np.concatenate(maps)
        if sum(bool((found >= 0).any()) for found in maps) > 1:
            return None
        out = np.full(1, -1)
        for found in maps:
            out = np.maximum(out[:, None], found).reshape(-1)
        return out
