"""Checks every local link of the built site: `python docs/check_links.py build/docs` names the broken ones.

Sphinx checks the links that it creates itself; this checks all links in the HTML, including the report's.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect a tag's link and its anchors."""
        values = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := values.get(name))]
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}


def broken(folder: Path) -> list[str]:
    """A line for each link within `folder` whose file or anchor does not exist."""
    pages = {file.resolve(): Page(file) for file in folder.rglob("*.html") if "_static" not in file.parts}
    lines = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.exists():
                lines.append(f"{file}: {link}: no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                lines.append(f"{file}: {link}: no such anchor")
    return lines


if __name__ == "__main__":
    problems = broken(Path(sys.argv[1]))
    print("\n".join(problems), end="\n" if problems else "")
    raise SystemExit(bool(problems))
