"""Every public name stands in the API reference, once, and the pages can be staged; building them is `make docs`."""

import importlib
import pathlib
import re
import runpy

import pytest

import sparsejax
from tests.test_imports import NAMESPACES, PUBLIC

DOCS = pathlib.Path(__file__).parents[1] / "docs"
BUILD = runpy.run_path(str(DOCS / "build.py"))
PAGES = BUILD["api_pages"]()


def _imported(name):
    """Whether a module of one file holds a name only because it imports it from another room."""
    space, _, last = name.rpartition(".")
    module = getattr(sparsejax, space) if space else sparsejax
    return not hasattr(module, "__path__") and getattr(module, last).__module__ != module.__name__


NAMES = [name for name in PUBLIC if not _imported(name)]


def _entries(page):
    return re.findall(r"^\.\. auto\w+:: (\w+)$", page, re.M)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_stands_in_the_reference(name):
    thing = PUBLIC[name]
    if "." not in name:
        assert f"`sparsejax.{name}`" in PAGES["index"]
    elif thing is getattr(
        sparsejax.errors, name.rpartition(".")[2], None
    ):  # many modules import what they raise
        assert thing.__name__ in _entries(PAGES["errors"])
    else:
        space, last = name.split(".")
        assert last in _entries(PAGES[space])


def test_every_namespace_has_a_page_that_lists_each_name_once():
    assert set(NAMESPACES) <= set(PAGES)
    for name, page in PAGES.items():
        entries = _entries(page)
        assert entries == sorted(set(entries)), name
        assert entries, name


def test_the_names_that_are_looked_for_are_nearly_all():
    assert len(PUBLIC) - len(NAMES) < 15


def test_every_entry_exists():
    for name, page in PAGES.items():
        for entry in _entries(page):
            module = sparsejax if name == "index" else importlib.import_module(f"sparsejax.{name}")
            assert hasattr(module, entry), f"{name}.{entry}"


def test_the_names_of_the_top_lead_to_where_they_stand():
    for name, home in re.findall(r"^\| `sparsejax\.(\w+)` \| \{py:obj\}`([\w.]+)`", PAGES["index"], re.M):
        space, last = home.rsplit(".", 1)
        assert getattr(importlib.import_module(space), last) is getattr(sparsejax, name)
        assert last in _entries(PAGES[space.removeprefix("sparsejax.") if space != "sparsejax" else "index"])


def test_all_pages_are_in_the_table_of_contents(tmp_path):
    BUILD["stage"](tmp_path / "source")
    source = tmp_path / "source"
    listed = set()
    for page in source.rglob("*.md"):
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in filter(None, (line.strip() for line in tree.splitlines())):
                if not line.startswith(":"):
                    listed |= {
                        found.relative_to(source).as_posix() for found in page.parent.glob(f"{line}.*")
                    }
    pages = {
        path.relative_to(source).as_posix() for path in source.rglob("*") if path.suffix in (".md", ".ipynb")
    }
    assert pages - listed == {"index.md"}


def test_docstrings_pass_through_restructured_text():
    escaped = runpy.run_path(str(DOCS / "docstrings.py"))["escaped"]
    lines = ["|w·g| of `set_`s, *args, set_ and ``|a|``.", "", "  >>> a | b", "  a_", "", "x_"]
    assert escaped(lines) == [
        r"\|w·g\| of `set_`\ s, \*args, set\_ and ``|a|``.", "", "  >>> a | b", "  a_", "", r"x\_",
    ]  # fmt: skip


def test_broken_links_of_a_site_are_named(tmp_path):
    broken = runpy.run_path(str(DOCS / "links.py"))["broken"]
    (tmp_path / "a.html").write_text(
        '<a href="b.html#x">b</a><a href="#y"></a><p id="y"><a href="https://x.y/z">'
    )
    (tmp_path / "b.html").write_text('<p id="x"><a href="a.html#nowhere"></a><img src="gone.png">')
    assert list(broken(tmp_path)) == ["b.html: a.html#nowhere", "b.html: gone.png"]
