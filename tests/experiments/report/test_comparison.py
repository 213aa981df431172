"""A study's table, its paired differences and its picture, on numbers small enough to check by hand."""

import math

import pytest

from experiments.errors import ConfigError
from experiments.report.comparison import (
    Cell,
    cell_table,
    comparison_table,
    find_cell,
    paired_comparisons,
    resolvable,
    rows_of,
)
from experiments.study.plots import draw_study

CELLS = [
    Cell("dense", None, (0, 1, 2), (3.0, 3.1, 3.2), 100.0, 600.0, 20.0),
    Cell("rigl", 0.5, (0, 1, 2), (3.5, 3.6, 3.7), 60.0, 330.0, 10.0),
    Cell("rigl", 0.9, (0, 1, 2), (4.0, 4.2, 4.4), 20.0, 90.0, 2.0),
    Cell("set", 0.5, (0, 1, 2), (3.6, 3.8, 3.7), 60.0, 300.0, 10.0),
    Cell("set", 0.9, (0, 1, 2), (4.3, 4.5, 4.7), 20.0, 60.0, 2.0),
]


def test_differences_are_paired_by_seed():
    found = paired_comparisons(CELLS, "rigl", "set", 0.9, lower=True)
    assert found.gain.mean == pytest.approx(0.3)
    assert found.gain.half_width == pytest.approx(0.0, abs=1e-12)
    assert found.verdict == "holds"
    # Where higher is better the same numbers say the opposite.
    assert paired_comparisons(CELLS, "rigl", "set", 0.9, lower=False).verdict == "reversed"


def test_noise_is_not_told_apart():
    found = paired_comparisons(CELLS, "rigl", "set", 0.5, lower=True)
    # Gains 0.1, 0.2, 0.0: mean 0.1, t(0.975, 2)·0.1/√3 = 4.3027·0.0577.
    assert found.gain.mean == pytest.approx(0.1)
    assert found.gain.half_width == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-5)
    assert found.verdict == "not told apart"


def test_the_dense_network_stands_in_every_column():
    assert find_cell(CELLS, "dense", 0.5) is find_cell(CELLS, "dense", 0.9)
    assert rows_of(CELLS) == ["dense", "rigl", "set"]
    with pytest.raises(
        ConfigError, match=r"no 'gmp' at sparsity 0.5; its rows are \['dense', 'rigl', 'set'\]"
    ):
        find_cell(CELLS, "gmp", 0.5)


def test_other_seeds_are_refused():
    cells = [*CELLS, Cell("snip", 0.9, (5, 6), (4.0, 4.1), 20.0, 60.0, 2.0)]
    with pytest.raises(ConfigError, match=r"snip has seeds \(5, 6\), set has \(0, 1, 2\)"):
        paired_comparisons(cells, "snip", "set", 0.9, lower=True)


def test_the_table_says_means_intervals_and_shares_of_the_dense_flops():
    text = cell_table(CELLS, (0.5, 0.9), metric="bits_per_byte", digits=2)
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines()[2:5]]
    assert rows[0][:4] == ["dense", "3.10 ± 0.25", "1.000×", "1.000×"]
    assert rows[1] == ["rigl", "3.60 ± 0.25", "0.550×", "0.500×", "4.20 ± 0.50", "0.150×", "0.100×"]
    assert f"90 %: {resolvable(CELLS, 0.9):.2f}" in text


def test_a_method_of_one_column_leaves_the_others_empty():
    cells = [*CELLS, Cell("small", 0.9, (0, 1, 2), (4.0, 4.1, 4.2), 20.0, 60.0, 2.0)]
    line = next(x for x in cell_table(cells, (0.5, 0.9), metric="loss").splitlines() if "small" in x)
    assert [part.strip() for part in line.strip("|").split("|")][:4] == ["small", "", "", ""]


def test_the_orderings_are_listed_with_their_verdicts():
    text = comparison_table(
        [paired_comparisons(CELLS, "rigl", "set", s, lower=True) for s in (0.5, 0.9)], metric="loss"
    )
    assert "| rigl better than set | 50 % | +0.100 ± 0.248 | not told apart |" in text
    assert "| rigl better than set | 90 % | +0.300 ± 0.000 | holds |" in text


@pytest.mark.parametrize("cells", [CELLS, [cell._replace(values=cell.values[:1]) for cell in CELLS]])
def test_the_picture_is_drawn(tmp_path, cells):
    draw_study(tmp_path / "study.png", "a study", cells, metric="loss")
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
