"""The algebra of dimensions: cuts, ties and masks on the trees that models make."""

import numpy as np
import pytest

from sparsejax.errors import TracingError
from sparsejax.tracing.axes.dims import ONE, Dims, Kept, Product, Reason, Sum

WHY = Reason("test")


def kept(*bits):
    mask = np.array(bits, bool)
    return Kept(int(mask.sum()), mask)


def test_factor_cuts_an_atom_and_puts_it_together_again():
    dims = Dims()
    a = dims.atom(24)
    heads, dim = dims.factor(a, (4, 6))
    assert (dims.size(heads), dims.size(dim)) == (4, 6)
    assert dims.resolve(a) == Product((heads, dim))
    assert dims.factor(Product((heads, dim)), (24,)) == [dims.resolve(a)]


def test_factor_refuses_cuts_that_do_not_nest():
    dims = Dims()
    a = Product((dims.atom(4), dims.atom(6)))
    assert dims.factor(a, (6, 4)) is None
    assert dims.factor(a, (8, 3)) is not None


def test_segments_of_a_product_go_along_its_major_part():
    dims = Dims()
    major, minor = dims.atom(6), dims.atom(4)
    first, second = dims.segments(Product((major, minor)), (8, 16))
    assert (dims.size(first), dims.size(second)) == (8, 16)
    assert isinstance(dims.resolve(major), Sum)
    assert dims.segments(Product((dims.atom(6), dims.atom(4))), (3, 21)) is None


def test_heads_of_a_concatenation_are_cut_alike():
    dims = Dims()
    q, k = dims.atom(12), dims.atom(6)
    heads, dim = dims.factor(Sum((q, k)), (6, 3))
    assert dims.size(heads) == 6
    assert dims.leaves(dim) <= dims.leaves(q)
    assert dims.leaves(dim) <= dims.leaves(k)


def test_unify_refines_both_sides():
    dims = Dims()
    a, b = dims.atom(12), dims.atom(12)
    dims.factor(a, (3, 4))
    dims.segments(b, (4, 8))
    dims.unify(a, b, WHY)
    assert dims.leaves(a) == dims.leaves(b)
    keep = {atom: kept(*np.arange(dims.sizes[atom]) % 2) for atom in dims.leaves(a)}
    np.testing.assert_array_equal(dims.mask(a, keep), dims.mask(b, keep))
    assert 0 < dims.mask(a, keep).sum() < 12


def test_unify_freezes_what_has_no_common_refinement():
    dims = Dims()
    a, b = dims.atom(12), dims.atom(12)
    dims.factor(a, (3, 4))
    dims.factor(b, (4, 3))
    dims.unify(a, b, WHY)
    assert all(dims.frozen[atom] is not None for atom in dims.leaves(a) | dims.leaves(b))


def test_the_older_atom_stays():
    dims = Dims()
    a, b = dims.atom(5), dims.atom(5)
    dims.unify(b, a, WHY)
    assert dims.resolve(b) == a == dims.resolve(a)


def test_frozen_spreads_to_parts_and_partners():
    dims = Dims()
    a, b = dims.atom(6, WHY), dims.atom(6)
    dims.unify(a, b, WHY)
    parts = dims.factor(b, (2, 3))
    assert all(dims.frozen[atom] == WHY for part in parts for atom in dims.leaves(part))


def test_sizes_that_differ_are_an_error_not_a_tie():
    dims = Dims()
    with pytest.raises(TracingError, match="5 and 6"):
        dims.unify(dims.atom(5), dims.atom(6), WHY)


def test_masks_and_indices_of_a_tree():
    dims = Dims()
    heads, q, k = dims.atom(2), dims.atom(2), dims.atom(1)
    axis = Product((heads, Sum((q, k))))
    keep = {heads: kept(0, 1), q: kept(1, 0)}
    np.testing.assert_array_equal(dims.mask(axis, keep), [0, 0, 0, 1, 0, 1])
    assert dims.new_size(axis, keep) == 2
    np.testing.assert_array_equal(dims.index(axis, heads), [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(dims.index(axis, q), [0, 1, -1, 0, 1, -1])
    assert dims.index(Product((heads, heads)), heads) is None
    np.testing.assert_array_equal(dims.index(Sum((heads, heads)), heads), [0, 1, 0, 1])


def test_ones_are_no_atoms():
    dims = Dims()
    assert dims.atom(1) == ONE
    assert dims.size(ONE) == 1
    assert dims.factor(dims.atom(6), (1, 6, 1))[0] == ONE
    assert dims.frozen[dims.atom(0)] is not None


def test_an_axis_that_would_be_part_of_itself_is_frozen():
    dims = Dims()
    axis = dims.atom(6)
    dims.bind(axis, Product((axis, dims.atom(2))))
    assert dims.resolve(axis) == axis
    assert "part of itself" in dims.frozen[axis].text
