"""What `bench report` writes."""

from __future__ import annotations

from pathlib import Path

from bench.cli.console import fail, note, print_line
from bench.parts.leaderboard import board_files, html
from bench.reporting import folders
from bench.results.store import RESULTS
from methods.contract.errors import UserError


def write_leaderboard(
    results: list[Path],
    out: Path | None,
    check: bool,
    signed_by: Path | None,
    title: str | None,
    papers: str | None,
    smaller: str | None,
) -> None:
    """Write the files of `bench report`, or with `check` exit with 1 if some are out of date."""
    folder = out or board_files.FOLDER
    rows: Path | None = folders.PUBLISHED
    if papers is not None:
        rows = Path(papers) if papers != "none" else None
    if papers and rows and not rows.is_dir():
        raise UserError(f"--papers {papers!r} is no folder: name one with CSV files, or none")
    title = title or html.LEADERBOARD.title
    made = board_files.build(
        results or folders.results_folders(), rows, signed_by, title, smaller or ""
    )
    if not check:
        for path in board_files.write(made, folder):
            print_line(path)
        if not results and folders.leaves_local_out():
            note(
                f"{RESULTS} is left out: bench report --results {RESULTS} --out DIR writes a page "
                "of it"
            )
        return
    stale = board_files.find_stale(made, folder)
    if stale:
        fail(
            f"out of date: {', '.join(map(str, stale))}: the same command without --check writes "
            "them",
            1,
        )
