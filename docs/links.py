"""Checks the links inside a built site: every page, file and anchor that they name is there."""

import pathlib
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src") and not (tag == "link" and ("rel", "canonical") in attrs):
                self.links.append(value)
            elif value and name == "id":
                self.anchors.add(value)


def broken(site: pathlib.Path) -> Iterator[str]:
    """Finds links that lead nowhere inside the site; what leads out of it is not asked.

    Args:
      site: the folder of a built site.

    Yields:
      ``page: link`` for each, in order.
    """
    files = sorted(
        path for path in site.rglob("*.html") if "_static" not in path.parts
    )  # a theme's templates
    pages = {path: _read(path) for path in files}
    for path, page in pages.items():
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            anchor = urllib.parse.unquote(parts.fragment)
            missing = anchor and target in pages and anchor not in pages[target].anchors
            if not target.exists() or missing:
                yield f"{path.relative_to(site)}: {link}"


def _read(path: pathlib.Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page
