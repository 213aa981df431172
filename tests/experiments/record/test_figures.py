"""Pictures are written as PNG, SVG and PDF, the same bytes each time, and follow a page's colours inside it."""

import re
import xml.etree.ElementTree as ET

import pytest

from experiments.errors import ConfigError
from experiments.record.figures import finish, inline_svg, new_figure, rendered, save_figure


@pytest.fixture
def figure():
    made = new_figure(3, 2)
    made.subplots().plot([1, 2], [3, 4], "o-", label="a < b")
    made.axes[0].legend()
    return finish(made, "a title")


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_ending_says_what_is_written(tmp_path, figure, ending, magic):
    save_figure(tmp_path / f"a.{ending}", figure)
    assert (tmp_path / f"a.{ending}").read_bytes().startswith(magic)


def test_a_vector_comes_beside_the_png(tmp_path, figure):
    save_figure(tmp_path / "a.png", figure, vector=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"]


def test_another_ending_is_refused(tmp_path, figure):
    with pytest.raises(ConfigError, match="png, svg, pdf"):
        save_figure(tmp_path / "a.jpeg", figure)


def test_the_bytes_are_the_same_each_time_and_text_stays_text(figure):
    assert rendered(figure, "svg") == rendered(figure, "svg")
    assert rendered(figure, "pdf") == rendered(figure, "pdf")
    assert b">a title<" in rendered(figure, "svg")


def test_inside_a_page_it_takes_the_pages_colours(figure):
    text = inline_svg(figure, 'so & "so"')
    root = ET.fromstring(text)
    assert root.get("aria-label") == 'so & "so"'
    assert root.get("width") is None
    assert "currentColor" in text
    assert "var(--grid)" in text
    assert "#24292f" not in text
    for name in re.findall(r'(?:href="|url\()#([\w-]+)', text):  # what is referred to is there
        assert f'id="{name}"' in text


def test_two_pictures_of_a_page_share_no_name(figure):
    ids = [set(re.findall(r' id="([\w-]+)"', inline_svg(figure, name))) for name in ("one", "two")]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_notebook_shows_it(figure):
    assert figure._repr_png_().startswith(b"\x89PNG")
