"""Every notebook runs from top to bottom, and shows what it promises."""

import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "colab").glob("*.ipynb"))


def run(path: pathlib.Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}})
    return client.execute()


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list:
    return [out for cell in notebook.cells for out in cell.get("outputs", []) if kind in out.get("data", {})]


def text(notebook: nbformat.NotebookNode) -> str:
    streams = [
        out for cell in notebook.cells for out in cell.get("outputs", []) if out.output_type == "stream"
    ]
    return "".join(out.text for out in streams)


# ipykernel and its dependencies warn on their own about things a notebook's author cannot change.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_draws(path):
    done = run(path)
    assert outputs(done, "image/png"), "no figure"
    if path.stem == "01_quickstart":
        assert "sparsity over the kernels 0.95" in text(done)


def test_notebooks_are_committed_without_outputs():
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        assert not any(cell.get("outputs") for cell in notebook.cells), f"{path.name}: clear the outputs"
