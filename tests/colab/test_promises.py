"""What a stored notebook lacks is named; findings are held to the outputs."""

import nbformat
import pytest

from colab import compile, promises

SOURCE = """# %% [markdown]
# # A title
#
# A question.

# %%
STEPS = 10  # @param {type:"integer"}
print(STEPS)

# %% [markdown]
# ## Finding
#
# It came to 0.75 and 1,200; `0.5` is code.

# %% [markdown]
# ## Exercise
#
# Do it.
"""


@pytest.fixture
def notebook(tmp_path):
    source = tmp_path / "01_title.py"
    source.write_text(SOURCE)
    return compile.compiled(source)


def run(notebook, text):
    """What a kernel would store."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        cell.execution_count = number
    picture = nbformat.v4.new_output("display_data", {"image/png": "AAAA"})
    code[-1].outputs = [nbformat.v4.new_output("stream", text=text), picture]


def test_a_notebook_has_title_badge_first_cell_and_the_source_s_cells(notebook):
    first, setup, *others = notebook.cells
    assert first.source.startswith("# A title\n\n[![Open in Colab]")
    assert "colab/01_title.ipynb" in first.source
    assert "Nothing was run in Colab" in first.source
    assert setup.source == compile.FIRST_CELL
    assert [cell.cell_type for cell in others] == ["code", "markdown", "markdown"]
    nbformat.validate(notebook)


def test_form_fields_are_filled_in(notebook):
    compile.set_fields(notebook, {"STEPS": 3})
    assert notebook.cells[2].source.startswith('STEPS = 3  # @param {type:"integer"}\n')
    with pytest.raises(KeyError, match="STEP"):
        compile.set_fields(notebook, {"STEP": 3})


def test_a_kept_promise_is_not_named(notebook):
    run(notebook, "loss 0.75 of 1,200")
    assert promises.broken(notebook, "01_title") == []


def test_numbers_that_no_output_shows_are_named(notebook):
    run(notebook, "loss 0.754 of 1,200")
    assert promises.broken(notebook, "01_title") == ["the finding says 0.75, no output does"]


def test_what_was_not_run_is_named(notebook):
    found = promises.broken(notebook, "02_other")
    assert "missing: a badge in the first cell" in found
    assert "missing: every code cell run, in order" in found
    assert "missing: a stored figure" in found


def test_text_that_was_never_written_is_named(notebook):
    run(notebook, "0.75 1,200")
    notebook.cells[3].source = "## Finding\n\nTODO"
    assert promises.broken(notebook, "01_title") == ["missing: text where a TODO stands"]


def test_a_stored_error_is_named(notebook):
    run(notebook, "0.75 1,200")
    notebook.cells[2].outputs.append(
        nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])
    )
    assert promises.broken(notebook, "01_title") == ["an error is stored: ValueError"]
