"""What is left of a network, counted by hand."""

import numpy as np

from experiments.report.comparison import Cell, cell_table
from experiments.study.architecture import Architecture, architecture_table, units_left


def test_inputs_are_counted_along_the_input_axis_whatever_the_mask_s_own_shape():
    conv = np.zeros((3, 3, 4, 2), bool)
    conv[1, 2, [0, 3], 1] = True
    masks = {"conv/kernel": conv, "dense/kernel": np.array([[True], [False], [True]]), "bias": np.array(True)}
    assert units_left(masks) == {"conv/kernel": (2, 4), "dense/kernel": (2, 3)}


def test_a_table_as_louizos_has_it():
    row = Architecture("l0", ({"a": (3, 8)}, {"a": (6, 8)}), (0.1, 0.2), (0.25, 0.75))
    whole = Architecture("dense", ({"first": (1, 1), "a": (8, 8)},), (0.1,), (1.0,))
    table = architecture_table([whole, row])
    assert "| l0 | 4 | 15.0 ± 63.5 % | 50.0 % |" in table  # of 3 and 6 inputs, to the even number
    assert "| dense | 8 |" in table


def test_a_cell_says_where_a_penalty_came_to():
    cells = [
        Cell("dense", None, (0, 1), (0.5, 0.5), 9.0, 1.0, 1.0, 0.0),
        Cell("soft", 0.9, (0, 1), (0.25, 0.25), 9.0, 1.0, 1.0, 0.936),
        Cell("hard", 0.9, (0, 1), (0.25, 0.25), 9.0, 1.0, 1.0, 0.9001),
    ]
    text = cell_table(cells, (0.9,), metric="loss")
    assert "| soft | 0.250 ± 0.000 (at 93.6 %) |" in text
    assert "| hard | 0.250 ± 0.000 |" in text
    assert "| dense | 0.500 ± 0.000 |" in text
