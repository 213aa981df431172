"""Every notebook keeps its promises as it is stored, and runs from top to bottom."""

import importlib.util
import pathlib

import nbclient
import nbformat
import pytest

from colab import compile, execute, promises

SOURCES = compile.sources()
# Three run by default, with form fields filled in for less.
SMALL = {
    "01_quickstart": {"STEPS": 150, "SEEDS": 1},
    "02_write_your_own_method": {"STEPS": 40, "SEEDS": 1, "SPARSITIES": (0.9,)},
    "04_lottery_tickets": {"STEPS": 40, "SEEDS": 2, "LEVELS": 2},
}
# What a notebook says to do where a package is missing that no extra of ours brings.
OPTIONAL = {
    "09_hugging_face_without_adapter": ("torch", r"pip install"),
    "10_compress_magika": ("magika", r"pip install --no-deps magika"),
}


def stem(path: pathlib.Path) -> str:
    return path.stem


def stored(source: pathlib.Path) -> nbformat.NotebookNode:
    return nbformat.read(compile.notebook_of(source), as_version=4)


def figures(notebook: nbformat.NotebookNode) -> list:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output for output in outputs if "image/png" in output.get("data", {})]


def test_every_notebook_has_its_source():
    there = {path.stem for path in compile.HERE.glob("*.ipynb")}
    assert there == {source.stem for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=stem)
def test_the_stored_notebook_keeps_its_promises(source):
    assert promises.broken(stored(source), source.stem) == []


@pytest.mark.parametrize("source", SOURCES, ids=stem)
def test_the_stored_notebook_is_that_of_its_source(source):
    cells = [(cell.cell_type, cell.source) for cell in stored(source).cells]
    assert cells == [(cell.cell_type, cell.source) for cell in compile.compiled(source).cells]


def test_stored_results_are_small_and_read():
    text = "".join(source.read_text(encoding="utf-8") for source in SOURCES)
    for path in (compile.HERE / "results").glob("*"):
        assert path.stat().st_size <= 200_000, path
        assert path.name in text, f"{path}: no notebook reads it"


# ipykernel and its dependencies warn on their own about things a notebook's author cannot change.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs_with_small_settings(name, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(compile.HERE.parent))
    notebook = compile.compiled(compile.HERE / "sources" / f"{name}.py")
    compile.set_fields(notebook, SMALL[name])
    execute.execute(notebook)
    assert len(figures(notebook)) == len(figures(stored(compile.HERE / f"sources/{name}.py")))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", SOURCES, ids=stem)
def test_a_notebook_runs_as_it_is(source, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(compile.HERE.parent))
    notebook = compile.compiled(source)
    package, remedy = OPTIONAL.get(source.stem, ("jax", ""))
    if importlib.util.find_spec(package) is None:
        with pytest.raises(nbclient.exceptions.CellExecutionError, match=remedy):
            execute.execute(notebook)
    else:
        execute.execute(notebook)
        assert len(figures(notebook)) == len(figures(stored(source)))
