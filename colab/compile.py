"""A notebook out of its source: a Python file in cells (# %%), to which badge and first code cell are added."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import nbformat

HERE = pathlib.Path(__file__).parent
FIRST_CELL = (HERE / "first_cell.py").read_text(encoding="utf-8").strip()
REPOSITORY = re.search(r'^REPOSITORY = "https://github.com/([^"]+)"', FIRST_CELL, re.M)[1]
_BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
_NOT_IN_COLAB = (
    "*Stored here: what one run of this notebook on two CPU cores gave. Nothing was run in Colab itself, and the "
    "badge leads nowhere until the repository has a public address.*"
)
_FIELD = r"^{name} = (.*?)(\s*# ?@param.*)$"


def sources() -> list[pathlib.Path]:
    """The sources of all notebooks, in their order."""
    return sorted((HERE / "sources").glob("[0-9]*.py"))


def notebook_of(source: pathlib.Path) -> pathlib.Path:
    """Where the notebook of a source is stored."""
    return HERE / f"{source.stem}.ipynb"


def compiled(source: pathlib.Path) -> nbformat.NotebookNode:
    """Makes the notebook, without outputs.

    Args:
      source: cells begin with ``# %%``; those of text, ``# %% [markdown]``, are comments. The first is text and
        begins with the title.

    Returns:
      The notebook: title, badge and text; the first code cell; the source's other cells.

    Raises:
      ValueError: the source begins with something else.
    """
    first, *others = _cells(source.read_text(encoding="utf-8"))
    if first["cell_type"] != "markdown" or not first["source"].startswith("# "):
        raise ValueError(f"{source} does not begin with a cell of text with a title: # %% [markdown], # # …")
    title, text = first["source"].split("\n", 1)
    first["source"] = f"{title}\n\n{badge(source.stem)}\n{text}\n\n{_NOT_IN_COLAB}"
    cells = [first, nbformat.v4.new_code_cell(FIRST_CELL), *others]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:02d}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}}
    )


def badge(name: str) -> str:
    """The badge that opens a notebook in Colab.

    Args:
      name: of the notebook, without its ending.

    Returns:
      An image with a link, in Markdown.
    """
    place = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/colab/{name}.ipynb"
    return f"[![Open in Colab]({_BADGE})]({place})"


def set_fields(notebook: nbformat.NotebookNode, values: Mapping[str, Any]) -> None:
    """Fills in form fields, as a reader does: ``STEPS = 1_500  # @param {…}``.

    Args:
      notebook: is changed.
      values: by the name of the field.

    Raises:
      KeyError: a field that no cell has.
    """
    for name, value in values.items():
        pattern, count = re.compile(_FIELD.format(name=name), re.M), 0
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source, found = pattern.subn(f"{name} = {value!r}\\2", cell.source)
                count += found
        if count != 1:
            raise KeyError(f"{count} form fields are called {name}.")


def _cells(text: str) -> list[nbformat.NotebookNode]:
    parts = re.split(r"^# %%(.*)$", text, flags=re.M)[1:]
    cells = []
    for kind, body in zip(parts[::2], parts[1::2], strict=True):
        if kind.strip() == "[markdown]":
            lines = [line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines()]
            cells.append(nbformat.v4.new_markdown_cell("\n".join(lines)))
        else:
            cells.append(nbformat.v4.new_code_cell(body.strip()))
    return cells
