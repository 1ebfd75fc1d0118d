"""Copy the page of searches beside the leaderboard: Sphinx puts each download in a folder of its own, and the two link to each
other.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sphinx.application import Sphinx

SEARCHES = "leaderboard-searches.html"


def copy_searches(app: Sphinx, exception: Exception | None) -> None:
    """Run when the site has been written."""
    source = Path(app.srcdir).parent / "reports" / SEARCHES
    if exception is None and source.is_file():
        for page in Path(app.outdir).glob("_downloads/*/leaderboard.html"):
            shutil.copyfile(source, page.parent / SEARCHES)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", copy_searches)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
