"""Compiles notebooks, runs them from top to bottom in a kernel of this Python, and stores them with their outputs.

python -m colab.execute [NAME …] [--set FIELD=VALUE …] [--out FOLDER] [--text]

NAME is the beginning of a notebook's name, such as 03; all of them without. ``--text`` puts changed text into the
stored notebooks and runs nothing, where no code has changed.
"""

import argparse
import ast
import os
import pathlib
import sys
import time
from collections.abc import Sequence

import nbclient
import nbformat

from colab.compile import HERE, compiled, notebook_of, set_fields, sources
from colab.promises import broken

_LIMIT = 180  # seconds that a notebook may take


def execute(notebook: nbformat.NotebookNode) -> float:
    """Runs all cells in a new kernel, in the folder of the notebooks.

    Args:
      notebook: gets the outputs.

    Returns:
      Seconds, the kernel's start included.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell raised.
    """
    began = time.perf_counter()
    resources = {"metadata": {"path": str(HERE)}}
    client = nbclient.NotebookClient(notebook, timeout=600, resources=resources, record_timing=False)
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return time.perf_counter() - began


def retold(source: pathlib.Path) -> nbformat.NotebookNode:
    """The stored notebook with the text of its source.

    Args:
      source: of the notebook.

    Returns:
      The notebook, with the outputs that it was stored with.

    Raises:
      ValueError: code has changed since.
    """
    stored, fresh = nbformat.read(notebook_of(source), as_version=4), compiled(source)
    code = [[cell.source for cell in one.cells if cell.cell_type == "code"] for one in (stored, fresh)]
    if code[0] != code[1]:
        raise ValueError(f"{source.name}: its code is another than what was run; run it.")
    ran = iter([cell for cell in stored.cells if cell.cell_type == "code"])
    for cell in fresh.cells:
        if cell.cell_type == "code":
            was = next(ran)
            cell.outputs, cell.execution_count = was.outputs, was.execution_count
    return fresh


def main(argv: Sequence[str] | None = None) -> int:
    """The command.

    Args:
      argv: the command line's words; those of the process when None.

    Returns:
      0, or 1 where a notebook does not keep what it promises.
    """
    parser = argparse.ArgumentParser(prog="python -m colab.execute", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="beginnings of notebooks' names; all without")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="fills in a form field"
    )
    parser.add_argument("--out", type=pathlib.Path, help="a folder to store in, instead of colab/")
    parser.add_argument("--text", action="store_true", help="only put new text into what is stored")
    args = parser.parse_args(argv)
    fields = dict(word.split("=", 1) for word in args.set)
    fields = {name: ast.literal_eval(value) for name, value in fields.items()}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    status = 0
    for source in sources():
        if args.names and not source.stem.startswith(tuple(args.names)):
            continue
        if args.text:
            notebook, took = retold(source), "not run"
        else:
            notebook = compiled(source)
            set_fields(notebook, fields)
            seconds = execute(notebook)
            took = f"{seconds:.0f} s" + (f", more than {_LIMIT} s" if seconds > _LIMIT else "")
        place = (args.out or HERE) / notebook_of(source).name
        nbformat.write(notebook, place)
        print(f"{place}: {took}")
        for problem in broken(notebook, source.stem):
            print(f"  {problem}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
