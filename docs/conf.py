"""How Sphinx builds the pages; `make docs` stages the sources and calls it, offline once the extra is installed."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import docstrings

import sparsejax

project = "sparsejax"
author = "The sparsejax developers"
version = release = sparsejax.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
html_theme = "sphinx_book_theme"
html_title = "sparsejax"
html_theme_options = {"use_download_button": False, "use_fullscreen_button": False, "show_toc_level": 2}
html_copy_source = False

# Notebooks are shown as they are stored: they run in the tests, not here.
nb_execution_mode = "off"
nb_merge_streams = True
# Headings get anchors as the code hosts make them, so that a link works in both places.
myst_heading_anchors = 4
myst_links_external_new_tab = False

autodoc_typehints = "none"  # signatures stay readable; the docstrings say shapes, units and ranges
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
# Docstrings name things in single backticks: a link where there is such a name, else code.
default_role = "py:obj"


def setup(app):
    """Lets our docstrings, which are plain text with names in backticks, pass through reStructuredText."""
    app.connect(
        "autodoc-process-docstring", docstrings.process, priority=1
    )  # before napoleon reads its sections
