"""Build the files of a leaderboard, write them, or find stale ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.compare import result_arguments
from bench.compare.result_set import ResultSet
from bench.reporting import (
    board,
    drawing,
    folding,
    from_papers,
    from_records,
    highlights,
    html,
    latex,
    profile,
    searches,
    smaller_models,
    table,
    table_figures,
)
from bench.reporting.protocol import RULE
from bench.reporting.table_figures import TableFigure
from bench.reporting.view import ReportSection
from bench.results import signatures
from bench.results.rows import frame_to_csv, to_frame
from bench.results.signatures import SIGNED_BY
from bench.results.store import RESULTS
from bench.system.files import sweep, write_file
from bench.system.text import escape_markdown
from methods.contract.errors import UserError

FOLDER = Path("reports")
PUBLISHED = RESULTS.parent / "published"
NAME = "leaderboard"
WITHOUT_TASKS = "Rows without tasks:"
SEARCHES = f"{NAME}-searches.html"
FIGURE = re.compile(rf"{NAME}-[a-z0-9-]+-[0-9]+\.svg")
"""Names of figures. `write` deletes files of such a name that belong to a former model."""


def results_folders() -> list[Path]:
    """Return all results folders except RESULTS, which `bench run` fills by default. Return RESULTS
    if it is alone."""
    root = RESULTS.parent
    folders = sorted(p.parent for p in root.glob("*/records") if p.is_dir())
    others = [p for p in folders if p != RESULTS] or folders
    if not others:
        raise UserError(
            f"no results folder in {str(root)!r}: name one with --results, or run bench run first"
        )
    return others


def leaves_local_out() -> bool:
    """Return whether `results_folders` leaves records of RESULTS out."""
    return RESULTS not in results_folders() and any((RESULTS / "records").glob("*.json"))


def read_boards(folders: Sequence[Path], model: str) -> list[ResultSet]:
    """Read the results folders that are no searches, to show one model. Raise UserError if all are
    searches."""
    results = [
        one
        for path in folders
        if not searches.is_search(one := result_arguments.read(path, model=model))
    ]
    if not results:
        raise UserError(
            f"only searches in {', '.join(map(str, folders))}: name another results folder with "
            "--results"
        )
    return results


def make_sections(
    results: Sequence[ResultSet], papers: Path | None, smaller: str = ""
) -> list[ReportSection]:
    """Make a section for each model of all folders, and one for papers at the end.

    papers: folder of their rows. smaller: model whose dense rows larger models have in their
    tables, or "".
    """
    out = board.make_sections(results)
    if smaller:
        out = smaller_models.add_smaller(
            out, smaller, {r.stem: r for one in results for r in one.records}
        )
    if papers and (section := from_papers.make_section(papers)):
        out.append(section)
    return out


def make_search_sections(results: Sequence[ResultSet]) -> list[ReportSection]:
    """Make a section for each folder, or raise UserError if scores cannot be read."""
    names = [Path(r.name).resolve().name for r in results]
    titles = [n if names.count(n) == 1 else r.name for n, r in zip(names, results, strict=True)]
    return [from_records.make_section(r, title) for r, title in zip(results, titles, strict=True)]


def build(
    results: Sequence[Path],
    papers: Path | None,
    signed_by: Path | None = None,
    title: str = html.LEADERBOARD.title,
    smaller: str = "",
) -> dict[str, bytes]:
    """Build all files. Return them by name. The same records give the same bytes.

    papers: folder of rows from papers, which need not exist. title: title of the page. smaller: as
    in `make_sections`.
    signed_by: file of allowed signers. Each row names those who signed its records.
    """
    result_sets = [result_arguments.read(path) for path in results]
    of_search = [r for r in result_sets if searches.is_search(r)]
    sections = make_sections([r for r in result_sets if r not in of_search], papers, smaller)
    signers: dict[str, str] | None = None
    if signed_by:
        signers = {}
        for one in result_sets:
            signers |= signatures.names(one.records, signatures.verify(Path(one.name), signed_by))
        sections = [
            section if section.published else _with_signers(section, signers)
            for section in sections
        ]
    figures = _draw(sections)
    figure_files = _figure_files(sections, figures)
    page = replace(html.LEADERBOARD, title=title)
    if of_search:
        page = replace(page, other=SEARCHES, other_name="Searches and scaling grids")
    found = make_search_sections(of_search)
    files = {
        f"{NAME}.html": html.render_page(sections, figures, page),
        f"{NAME}.md": _markdown(sections, figure_files, of_search, title),
        f"{NAME}.csv": _csv(result_sets, signers, [*sections, *found]),
        f"{NAME}.tex": latex.render_document(
            [
                (
                    s.title,
                    s.description,
                    [x for t in s.tables for x in (*t.to_text_tables(), *profile.text_tables(t))],
                )
                for s in sections
            ]
        ),
    }
    files |= {
        name: drawing.to_file(f.svg)
        for of_section in figure_files.values()
        for name, f in of_section.items()
    }
    if of_search:
        about = html.PageKind(
            "cast-bench searches",
            "Searches for recipes, and grids for scaling laws. " + searches.RULE, f"{NAME}.html",
            "Leaderboard", picks=False,
        )  # fmt: skip
        files[SEARCHES] = html.render_page(found, _draw(found), about)
    return {name: text.encode() for name, text in files.items()}


def _with_signers(section: ReportSection, signers: Mapping[str, str]) -> ReportSection:
    """Add who signed to each record and row, and how many records are signed to the section.
    signers: by record."""
    records = {
        key: {**about, "status": f"{about['status']}, {SIGNED_BY} {who}"}
        if (who := signers.get(key))
        else about
        for key, about in section.records.items()
    }
    tables = []
    for one in section.tables:
        stems = [(key for cell in row.cells if cell for key in cell.records) for row in one.rows]
        rows = tuple(
            replace(row, labels=(*row.labels, signatures.of_row(keys, signers)))
            for row, keys in zip(one.rows, stems, strict=True)
        )
        tables.append(replace(one, label_names=(*one.label_names, SIGNED_BY), rows=rows))
    signed = sum(bool(signers.get(key)) for key in records)
    about = f"{section.description} · {signed:,} signed"
    return replace(section, records=records, tables=tuple(tables), description=about)


def write(files: dict[str, bytes], folder: Path) -> list[Path]:
    """Write the files, and delete those of an earlier leaderboard and unfinished files of killed
    processes."""
    sweep(folder, f".{NAME}*.tmp")
    try:
        for name, content in files.items():
            write_file(folder / name, content)
        for path in _own_files(folder):
            if path.name not in files:
                path.unlink()
    except OSError as fault:
        raise UserError(
            f"cannot write to {str(folder)!r} ({fault.strerror}): name another folder with --out"
        ) from None
    return [folder / name for name in files]


def find_stale(files: dict[str, bytes], folder: Path) -> list[Path]:
    """Return the files that are missing from the folder, have other bytes, or should not be
    there."""
    own = {p.name for p in _own_files(folder)}
    existing = {
        name: (folder / name).read_bytes()
        for name in files.keys() | own
        if (folder / name).is_file()
    }
    return [
        folder / name
        for name in sorted(files.keys() | own)
        if files.get(name) != existing.get(name)
    ]


def _own_files(folder: Path) -> list[Path]:
    """Return the files that a leaderboard need not have: figures, and the page of searches."""
    return [
        p
        for p in folder.glob(f"{NAME}-*")
        if p.is_file() and (p.name == SEARCHES or FIGURE.fullmatch(p.name))
    ]


def _csv(
    results: Sequence[ResultSet],
    signers: Mapping[str, str] | None,
    sections: Sequence[ReportSection],
) -> str:
    """Write a line for each reading. The last column says whether the tables of the sections have
    its record.

    They do not have a record if a newer one with the same identity is in another folder. Numbers
    from papers are left out.
    """
    import pandas as pd

    taken = {(about["folder"], key) for s in sections for key, about in s.records.items()}
    frames = []
    for one in results:
        frame = to_frame(one.records, signers).assign(folder=one.name)
        frames.append(
            frame.assign(
                in_tables=["yes" if (one.name, r) in taken else "no" for r in frame["record"]]
            )
        )
    return frame_to_csv(pd.concat(frames, ignore_index=True))


def _draw(sections: Sequence[ReportSection]) -> dict[int, list[TableFigure]]:
    """Draw the figures of all tables. Returns them by the table's number on the page."""
    every = [(s.title, t) for s in sections for t in s.tables]
    return {k: table_figures.draw_all(t, title) for k, (title, t) in enumerate(every)}


def _figure_files(
    sections: Sequence[ReportSection], figures: Mapping[int, Sequence[TableFigure]]
) -> dict[int, dict[str, TableFigure]]:
    """Return the figures of each section's main protocol by file name, by section."""
    names = (re.sub(r"[^a-z0-9]+", "-", s.title.lower()).strip("-")[:40] for s in sections)
    slugs = [name or "results" for name in names]
    out, first = {}, 0
    for i, section in enumerate(sections):
        slug = slugs[i] if slugs.count(slugs[i]) == 1 else f"{slugs[i]}-{i}"
        if not section.published:
            out[i] = {
                f"{NAME}-{slug}-{k}.svg": figure for k, figure in enumerate(figures.get(first, ()))
            }
        first += len(section.tables)
    return out


def _markdown(
    sections: Sequence[ReportSection],
    figures: dict[int, dict[str, TableFigure]],
    of_search: Sequence[ResultSet],
    title: str,
) -> str:
    out = [
        f"# {escape_all_markdown(title)}",
        f"Made by `bench report`. {table.SPREAD} A dash: not measured. Rank: by perplexity, or by "
        "the first column of quality that has ranks; rows that do not differ significantly share "
        "a range. " + folding.RULE,
        RULE,
    ]
    if best := highlights.find_highlights(sections):
        summary = table.to_markdown(highlights.to_text_table(best), escape_all_markdown)
        out += ["## Summary", highlights.CAPTION, summary.rstrip()]
    for i, section in enumerate(sections):
        out += [
            f"## {escape_all_markdown(section.title)}",
            escape_all_markdown(section.description),
        ]
        for j, one in enumerate(section.tables):
            out.append(f"### {escape_all_markdown(f'{table.caption(one.title)} · {one.protocol}')}")
            if j == 0:
                out += [
                    f"![{escape_all_markdown(f.title)}]({name})"
                    for name, f in figures.get(i, {}).items()
                ]
            with_tasks, *others = one.to_text_tables()
            out.append(table.to_markdown(with_tasks, escape_all_markdown).rstrip())
            for part in others:
                out += [WITHOUT_TASKS, table.to_markdown(part, escape_all_markdown).rstrip()]
            for text, about in zip(profile.text_tables(one), profile.CAPTIONS, strict=False):
                out += [f"#### {escape_all_markdown(text.title)}", about]
                out.append(table.to_markdown(text, escape_all_markdown).rstrip())
    if of_search:
        names = ", ".join(escape_all_markdown(Path(r.name).name) for r in of_search)
        out += ["## Searches and scaling grids", f"They have another page, {SEARCHES}: {names}."]
    return "\n\n".join(out) + "\n"


def escape_all_markdown(text: str) -> str:
    """Escape text for Markdown: what `escape_markdown` replaces, and also emphasis and
    strikethrough."""
    return re.sub(r"([\\*_~$!])", r"\\\1", escape_markdown(text))
