"""Copy the page of searches beside the leaderboard. The two link to each other, but Sphinx gives
each download a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from sphinx.application import Sphinx

SEARCHES = "leaderboard-searches.html"


def copy_searches(app: Sphinx, exception: Exception | None) -> None:
    """Copy the page after the build."""
    source = Path(app.srcdir).parent / "reports" / SEARCHES
    if exception is None and source.is_file():
        for page in Path(app.outdir).glob("_downloads/*/leaderboard.html"):
            shutil.copyfile(source, page.parent / SEARCHES)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", copy_searches)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
