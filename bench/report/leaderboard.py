"""The files of a leaderboard: build them, write them, or find those that are stale."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.compare import resolve
from bench.compare.result_set import ResultSet
from bench.report import from_papers, from_records, highlights, html, latex, pairwise, pareto, table
from bench.report.view import Section
from bench.results.rows import escape_formulas, to_frame
from bench.results.store import RESULTS
from bench.system.files import atomic_write
from bench.system.text import escape_markdown
from methods.errors import UserError

FOLDER = Path("reports")
PUBLISHED = RESULTS.parent / "published"
NAME = "leaderboard"
FILES = f"{NAME}*"
"""The names of all files that `write` writes. It deletes others of such a name."""


def results_folders(root: Path = RESULTS.parent) -> list[Path]:
    """All results folders but RESULTS, which `bench run` fills by default and git ignores; that one if it is alone.

    Raises:
        UserError: there is none.
    """
    folders = sorted(p.parent for p in root.glob("*/records") if p.is_dir())
    others = [p for p in folders if p != RESULTS] or folders
    if not others:
        raise UserError(f"no results folder in {str(root)!r}: name one with --results, or run bench run first")
    return others


def make_sections(
    results: Sequence[ResultSet], papers: Path, max_paired_rows: int = pairwise.MAX_PAIRED_ROWS
) -> list[Section]:
    """A section for each folder, those with validation numbers alone behind the rest, and one for papers at the end.

    Raises:
        UserError: something in them cannot be read.
    """
    names = [Path(r.name).resolve().name for r in results]
    titles = [n if names.count(n) == 1 else r.name for n, r in zip(names, results, strict=True)]
    out = [from_records.make_section(r, title, max_paired_rows) for r, title in zip(results, titles, strict=True)]
    out.sort(key=lambda s: not highlights.find_highlights([s]))
    if section := from_papers.make_section(papers):
        out.append(section)
    return out


def build(results: Sequence[Path], papers: Path) -> dict[str, bytes]:
    """All files, by name. The same records give the same bytes.

    Raises:
        UserError: a folder does not exist or has no records, or something in it cannot be read.
    """
    result_sets = [resolve.read(path) for path in results]
    sections = make_sections(result_sets, papers)
    figures = _figures(sections)
    files = {
        f"{NAME}.html": html.render_page(sections),
        f"{NAME}.md": _markdown(sections, figures),
        f"{NAME}.csv": _csv(result_sets),
        f"{NAME}.tex": latex.render_document(
            [(s.title, s.description, [t.to_text_table() for t in s.tables]) for s in sections]
        ),
    }
    files |= {name: svg for of_table in figures.values() for name, _, svg in of_table}
    return {name: text.encode() for name, text in files.items()}


def write(files: dict[str, bytes], folder: Path) -> list[Path]:
    """Write the files, and delete those of an earlier leaderboard that are not among them.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        for name, content in files.items():
            with atomic_write(folder / name) as temporary:
                temporary.write_bytes(content)
        for path in folder.glob(FILES):
            if path.name not in files:
                path.unlink()
    except OSError as fault:
        raise UserError(f"cannot write to {str(folder)!r} ({fault.strerror}): name another folder with --out") from None
    return [folder / name for name in files]


def find_stale(files: dict[str, bytes], folder: Path) -> list[Path]:
    """The files of the folder that are missing, have other bytes, or should not be there."""
    existing = {p.name: p.read_bytes() for p in folder.glob(FILES) if p.is_file()}
    return [folder / name for name in sorted(files.keys() | existing) if files.get(name) != existing.get(name)]


def _csv(results: Sequence[ResultSet]) -> str:
    """A line for each reading; numbers from papers are not among them."""
    import pandas as pd

    frames = [to_frame(r.records).assign(folder=r.name) for r in results]
    return escape_formulas(pd.concat(frames, ignore_index=True))


Figures = dict[tuple[int, int], list[tuple[str, str, str]]]
"""By section and table: file name, title and SVG of each figure."""


def _figures(sections: Sequence[Section]) -> Figures:
    style = html.figure_style()
    out: Figures = {}
    slugs = [_slug(s.title) for s in sections]
    for i, section in enumerate(sections):
        slug = slugs[i] if slugs.count(slugs[i]) == 1 else f"{slugs[i]}-{i}"
        for j, one in enumerate(section.tables):
            for k, front in enumerate(pareto.fronts(one)):
                title = f"{section.title}, {one.title}: {front.y.name} against {front.x.name}"
                name = f"{NAME}-{slug}-{j}-{k}.svg"
                out.setdefault((i, j), []).append((name, title, html.render_figure(front, title, "f", style)))
    return out


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "results"


def _markdown(sections: Sequence[Section], figures: Figures) -> str:
    out = [
        "# cast-bench leaderboard",
        "Made by `bench report`. After ±: the standard deviation over calibration seeds if a row has several, otherwise the "
        "standard error over windows or questions. A dash: not measured. Rank: by the first column that has ranks; rows "
        "that do not differ significantly share a range.",
    ]
    if best := highlights.find_highlights(sections):
        summary = table.to_markdown(highlights.to_text_table(best), escape_all_markdown)
        out += ["## Summary", highlights.CAPTION, summary.rstrip()]
    for i, section in enumerate(sections):
        out += [f"## {escape_all_markdown(section.title)}", escape_all_markdown(section.description)]
        for j, one in enumerate(section.tables):
            out.append(f"### {escape_all_markdown(one.title)}")
            out += [f"![{escape_all_markdown(title)}]({name})" for name, title, _ in figures.get((i, j), [])]
            out.append(table.to_markdown(one.to_text_table(), escape_all_markdown).rstrip())
    return "\n\n".join(out) + "\n"


def escape_all_markdown(text: str) -> str:
    """Text that stays text in Markdown: besides what `escape_markdown` replaces, no emphasis and no strikethrough."""
    return re.sub(r"([\\*_~$!])", r"\\\1", escape_markdown(text))
