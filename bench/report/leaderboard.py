"""The files of a leaderboard: written, or compared with what is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.compare import resolve
from bench.compare.result_set import ResultSet
from bench.report import from_papers, from_records, highlights, html, latex, pareto, table
from bench.report.view import Section
from bench.results.rows import escape_formulas, to_frame
from bench.results.store import RESULTS
from bench.system.files import atomic_write
from bench.system.text import escape_markdown
from methods.errors import UserError

OUT = Path("reports")
PUBLISHED = RESULTS.parent / "published"
NAME = "leaderboard"
MADE = f"{NAME}*"
"""All that `write` makes, and clears away when it makes it no more, bears this name."""


def folders(root: Path = RESULTS.parent) -> list[Path]:
    """Every results folder that is kept; the one that `bench run` fills by itself where there is no other.

    Raises:
        UserError: there is none.
    """
    found = sorted(p.parent for p in root.glob("*/records") if p.is_dir())
    kept = [p for p in found if p != RESULTS] or found
    if not kept:
        raise UserError(f"no results folder lies in {str(root)!r}: name some with --results, or run bench run first")
    return kept


def sections(results: Sequence[ResultSet], others: Path) -> list[Section]:
    """Each folder a section, those that only chose recipes behind the rest, and what others published as the last.

    Raises:
        UserError: something in them cannot be read.
    """
    names = [Path(side.name).resolve().name for side in results]
    titles = [n if names.count(n) == 1 else side.name for n, side in zip(names, results, strict=True)]
    out = [from_records.section(side, title) for side, title in zip(results, titles, strict=True)]
    out.sort(key=lambda s: not highlights.of([s]))
    if found := from_papers.section(others):
        out.append(found)
    return out


def make(results: Sequence[Path], others: Path) -> dict[str, bytes]:
    """Every file by its name. The same records give the same bytes.

    Raises:
        UserError: a folder is not there, holds no records, or something in it cannot be read.
    """
    read = [resolve.read(path) for path in results]
    found = sections(read, others)
    drawn = _figures(found)
    made = {
        f"{NAME}.html": html.html(found),
        f"{NAME}.md": _markdown(found, drawn),
        f"{NAME}.csv": _csv(read),
        f"{NAME}.tex": latex.document([(s.title, s.about, [t.grid() for t in s.tables]) for s in found]),
    }
    made |= {name: svg for figures in drawn.values() for name, _, svg in figures}
    return {name: text.encode() for name, text in made.items()}


def write(made: dict[str, bytes], out: Path) -> list[Path]:
    """
    Raises:
        UserError: the folder cannot be written.
    """
    try:
        for name, content in made.items():
            with atomic_write(out / name) as temporary:
                temporary.write_bytes(content)
        for path in out.glob(MADE):
            if path.name not in made:
                path.unlink()
    except OSError as fault:
        raise UserError(f"{str(out)!r} cannot be written ({fault.strerror}): name another with --out") from None
    return [out / name for name in made]


def stale(made: dict[str, bytes], out: Path) -> list[Path]:
    """What differs from what would be made: other bytes, not there, or there and made no more."""
    there = {p.name: p.read_bytes() for p in out.glob(MADE) if p.is_file()}
    return [out / name for name in sorted(made.keys() | there) if made.get(name) != there.get(name)]


def _csv(results: Sequence[ResultSet]) -> str:
    """One line a reading, of all that are ours."""
    import pandas as pd

    frames = [to_frame(side.records).assign(folder=side.name) for side in results]
    return escape_formulas(pd.concat(frames, ignore_index=True))


Figures = dict[tuple[int, int], list[tuple[str, str, str]]]
"""By section and table: file, what it shows, and its SVG."""


def _figures(found: Sequence[Section]) -> Figures:
    style = html.style()
    out: Figures = {}
    slugs = [_slug(s.title) for s in found]
    for i, section in enumerate(found):
        slug = slugs[i] if slugs.count(slugs[i]) == 1 else f"{slugs[i]}-{i}"
        for j, one in enumerate(section.tables):
            for k, front in enumerate(pareto.of(one)):
                title = f"{section.title}, {one.title}: {front.y.name} against {front.x.name}"
                name = f"{NAME}-{slug}-{j}-{k}.svg"
                out.setdefault((i, j), []).append((name, title, html.figure(front, title, "f", style)))
    return out


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "results"


def _markdown(found: Sequence[Section], drawn: Figures) -> str:
    out = [
        "# Leaderboard",
        "Made by `bench report`. After ±: the standard deviation over calibration seeds where a row has several, else the "
        "standard error over windows or questions. A dash: not measured. Rank: by the first column that has ranks; rows "
        "that cannot be told apart share a range.",
    ]
    if short := highlights.of(found):
        out += ["## In short", highlights.ABOUT, table.markdown(highlights.grid(short), text).rstrip()]
    for i, section in enumerate(found):
        out += [f"## {text(section.title)}", text(section.about)]
        for j, one in enumerate(section.tables):
            out.append(f"### {text(one.title)}")
            out += [f"![{text(title)}]({name})" for name, title, _ in drawn.get((i, j), [])]
            out.append(table.markdown(one.grid(), text).rstrip())
    return "\n\n".join(out) + "\n"


def text(value: str) -> str:
    """Text that stays text in Markdown: besides what `plain` replaces, no emphasis and nothing struck out."""
    return re.sub(r"([\\*_~$!])", r"\\\1", escape_markdown(value))
