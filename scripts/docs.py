"""Build the documentation site, and check it: python scripts/docs.py [FOLDER], by default
docs/_build/html.

A warning of Sphinx is an error, for example about a link to a missing heading. Then the script
looks for addresses that a browser would fetch from another site, and for links within the site that
lead nowhere. Install with pip install -e '.[docs]'.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
FETCHED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "link": ("href",),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "object": ("data",),
    "embed": ("src",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
}
"""Attributes by tag, whose address a browser fetches with the page."""
UNFETCHED_RELATIONS = {"canonical", "author", "license", "next", "prev", "index", "search", "help"}
CSS_ADDRESS = re.compile(r"""(?:url\(\s*|@import\s+)["']?([^"')\s;]+)""")


class PageLinks(HTMLParser):
    """Addresses that a page fetches, its links, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and set(values.get("rel", "").split()) <= UNFETCHED_RELATIONS:
            return
        self.fetched += [values[name] for name in FETCHED.get(tag, ()) if name in values]
        self.fetched += CSS_ADDRESS.findall(values.get("style", ""))


def problems(site: Path) -> Iterator[str]:
    """Yield a sentence for each fault of a built site."""
    read = cache(lambda path: PageLinks(path.read_text()))
    for path in sorted(site.rglob("*.html")):
        page = read(path)
        name = path.relative_to(site)
        yield from (
            f"{name}: fetches {address} from elsewhere"
            for address in page.fetched
            if _is_external(address)
        )
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if not target.is_file():
                yield f"{name}: link to {link}, which does not exist"
            elif (
                parts.fragment
                and target.suffix == ".html"
                and unquote(parts.fragment) not in read(target).ids
            ):
                yield f"{name}: link to {link}, a heading that does not exist"
    for path in sorted([*site.rglob("*.css"), *site.rglob("*.svg")]):
        for address in CSS_ADDRESS.findall(path.read_text()):
            if _is_external(address):
                yield f"{path.relative_to(site)}: fetches {address} from elsewhere"


def _is_external(address: str) -> bool:
    return bool(urlsplit(address).netloc)


def build(site: Path) -> int:
    """Build the site, and return the exit code of Sphinx."""
    options = ["-W", "--keep-going", "-q", "-E", "-a", "-d", str(site.parent / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(site)]
    return subprocess.run(command, check=False).returncode


def main() -> None:
    site = (Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/_build/html").resolve()
    if build(site):
        sys.exit("the site was not built: correct the pages that are named above")
    if found := list(problems(site)):
        sys.exit("\n".join(found))
    print(f"built {site / 'index.html'}")


if __name__ == "__main__":
    main()
