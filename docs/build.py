"""Builds the pages:  python docs/build.py OUT  (what `make docs` calls). Sphinx's warnings are errors.

The sources are staged beside the site: the pages of `docs/`, the notebooks of `colab/` as tutorials, and a page of
reference for every public namespace, which is written here from the names that there are.
"""

import ast
import importlib
import inspect
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

import sparsejax

ROOT = pathlib.Path(__file__).parents[1]


def main(out: pathlib.Path) -> int:
    """Stages the sources in OUT/source and builds the site in OUT/html.

    Args:
      out: made when absent; its `source` and `html` are made anew.

    Returns:
      Sphinx's exit status, or 1 where a link inside the site leads nowhere.
    """
    source, site = out / "source", out / "html"
    shutil.rmtree(source, ignore_errors=True)
    shutil.rmtree(site, ignore_errors=True)
    stage(source)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        str(out / "doctrees"),
    ]
    status = subprocess.run([*command, str(source), str(site)], check=False).returncode
    if status:
        return status
    sys.path.insert(0, str(ROOT / "docs"))
    links = importlib.import_module("links")
    for problem in links.broken(site):
        print(problem, file=sys.stderr)
        status = 1
    print(f"written to {site / 'index.html'}")
    return status


def stage(source: pathlib.Path) -> None:
    """Lays out what Sphinx reads."""
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (source / "changelog.md").write_text(changes.replace("```renames", "```text"), encoding="utf-8")
    for notebook in sorted((ROOT / "colab").glob("*.ipynb")):
        text = notebook.read_text(encoding="utf-8").replace("](../docs/", "](../")
        (source / "tutorials" / notebook.name).write_text(text, encoding="utf-8")
    (source / "api").mkdir()
    for name, page in api_pages().items():
        (source / "api" / f"{name}.md").write_text(page, encoding="utf-8")


def api_pages() -> dict[str, str]:
    """Writes the reference: a page for each namespace, and one that says where the names of the top stand.

    Returns:
      Name of the file, without its ending, to the page.
    """
    spaces = namespaces()
    pages = {name: _page(module) for name, module in spaces.items()}
    return {"index": _index(spaces), **pages}


def namespaces() -> dict[str, ModuleType]:
    """The public modules: those that `sparsejax` holds, and the adapters, which are imported late."""
    inside = {name: getattr(sparsejax, name) for name in sparsejax.__all__}
    found = {name: thing for name, thing in inside.items() if inspect.ismodule(thing)}
    interop = sorted((ROOT / "sparsejax" / "interop").glob("[!_]*.py"))
    return found | {
        f"interop.{path.stem}": importlib.import_module(f"sparsejax.interop.{path.stem}") for path in interop
    }


def public_names(module: ModuleType) -> list[str]:
    """The names that a namespace holds: a package what it gathers of ours, a module of one file what it defines."""
    if hasattr(module, "__path__"):
        return sorted(name for name in vars(module) if not name.startswith("_") and _ours(module, name))
    body = ast.parse(pathlib.Path(module.__file__).read_text(encoding="utf-8")).body
    names = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in body if isinstance(node, ast.AnnAssign)]
    names += [target.id for target in targets if isinstance(target, ast.Name)]
    return sorted(name for name in names if not name.startswith("_"))


def _ours(module: ModuleType, name: str) -> bool:
    thing = getattr(module, name)
    if inspect.ismodule(thing) or thing is getattr(
        sparsejax.errors, name, None
    ):  # what is raised is imported widely
        return False
    return not callable(thing) or thing.__module__.startswith("sparsejax")


def _index(spaces: Mapping[str, ModuleType]) -> str:
    """The names of the top: where they stand, and the entries of those that stand nowhere else."""
    top = [name for name in sparsejax.__all__ if not inspect.ismodule(getattr(sparsejax, name))]
    homes = {name: _home(name, spaces) for name in top}
    rows = [
        f"| `sparsejax.{name}` | {{py:obj}}`{home}` | {_first(getattr(sparsejax, name))} |"
        for name, home in homes.items()
    ]
    alone = [name for name, home in homes.items() if home == f"sparsejax.{name}"]
    lines = [
        "# API reference",
        "What one types daily is at the top of `sparsejax`; every other name stands in its namespace.",
        "| at the top | stands in | |\n| --- | --- | --- |\n" + "\n".join(rows),
        "```{toctree}\n:maxdepth: 1\n" + "\n".join(spaces) + "\n```",
        "## At the top only",
        _entries(sparsejax, alone),
    ]
    return "\n\n".join(lines) + "\n"


def _home(name: str, spaces: Mapping[str, ModuleType]) -> str:
    """The namespace that holds a name of the top."""
    thing = getattr(sparsejax, name)
    homes = [space for space, module in spaces.items() if getattr(module, name, None) is thing]
    return f"sparsejax.{homes[0]}.{name}" if homes else f"sparsejax.{name}"


def _first(thing: object) -> str:
    line = (inspect.getdoc(thing) or "").partition("\n")[0]
    return line.replace("|", "\\|") if callable(thing) else ""


def _page(module: ModuleType) -> str:
    intro = (inspect.getdoc(module) or "").partition("\n\n")[0].replace("\n", " ")
    return f"# {module.__name__}\n\n{intro}\n\n{_entries(module, public_names(module))}\n"


def _entries(module: ModuleType, names: Sequence[str]) -> str:
    """What Sphinx reads the docstrings by."""
    lines = [
        "```{eval-rst}",
        f".. py:module:: {module.__name__}",
        f".. currentmodule:: {module.__name__}",
        "",
    ]
    for name in names:
        thing = getattr(module, name)
        kind = _kind(thing)
        lines.append(f".. auto{kind}:: {name}")
        if kind == "class" and thing.__module__.startswith("sparsejax"):
            lines.append("   :members:")
    return "\n".join([*lines, "```"])


def _kind(thing: object) -> str:
    if inspect.isclass(thing):
        return "exception" if issubclass(thing, Exception) else "class"
    return "function" if inspect.isroutine(thing) else "data"


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]).absolute()))
