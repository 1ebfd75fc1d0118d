"""Copy the other pages beside the leaderboard. They link to each other, but Sphinx gives each
download a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from sphinx.application import Sphinx


def copy_pages(app: Sphinx, exception: Exception | None) -> None:
    """Copy the pages after the build."""
    if exception is not None:
        return
    reports = Path(app.srcdir).parent / "reports"
    for page in Path(app.outdir).glob("_downloads/*/leaderboard.html"):
        for source in reports.glob("leaderboard-*.html"):
            shutil.copyfile(source, page.parent / source.name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", copy_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
