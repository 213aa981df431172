"""The pages: what they name exists, their Python runs, they are narrow and the README is short."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def _outside_code(text):
    return "\n".join(part for i, part in enumerate(text.split("```")) if i % 2 == 0)


@pytest.mark.parametrize("page", NAMES)
def test_links_and_paths_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    paths = re.findall(
        r"\b(?:configs|colab|tests|experiments|sparsejax|docs)/[\w/]+\.(?:py|ipynb|md|png)\b", text
    )
    missing = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    missing += [path for path in paths if not (ROOT / path).exists() and "NAME" not in path]
    assert not missing


@pytest.mark.parametrize("page", NAMES)
def test_commands_name_modules_that_exist(page):
    for name in re.findall(r"python -m (experiments[\w.]*)", (ROOT / page).read_text(encoding="utf-8")):
        path = ROOT.joinpath(*name.rstrip(".").split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


@pytest.mark.parametrize("page", NAMES)
def test_prose_is_at_most_110_characters_wide(page):
    lines = _outside_code((ROOT / page).read_text(encoding="utf-8")).splitlines()
    assert not [line for line in lines if len(line) > 110 and not line.startswith(("|", "!"))]


def test_the_readme_is_short_and_nothing_is_said_to_be_on_pypi():
    assert len((ROOT / "README.md").read_bytes()) <= 8192
    files = [
        *PAGES,
        *ROOT.glob("colab/*.ipynb"),
        *ROOT.glob("experiments/**/*.py"),
        *ROOT.glob("sparsejax/**/*.py"),
    ]
    said = [
        str(f)
        for f in files
        if re.search(r"pip install [-\w ]*['\"]?sparsejax", f.read_text(encoding="utf-8"))
    ]
    assert not said


def test_the_python_of_extending_runs():
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "extending.md", "exec"), namespace)
    masks = namespace["sparsejax"].get_masks(namespace["state"])
    assert masks["w"].shape == (8, 8)
    assert masks["b"].ndim == 0
