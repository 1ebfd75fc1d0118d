"""Build the files of a leaderboard, write them, or find stale ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from bench.comparing import result_arguments
from bench.comparing.known_variance import KnownVariance
from bench.comparing.result_set import ResultSet, gc_paused
from bench.parts.leaderboard import (
    first_page,
    highlights,
    html,
    latex,
    smaller_models,
    table_figures,
)
from bench.parts.leaderboard.table_figures import TableFigure
from bench.reporting import (
    board,
    derived_cells,
    drawing,
    folding,
    from_papers,
    from_records,
    profile,
    searches,
    table,
)
from bench.reporting.protocol import RULE
from bench.reporting.view import ReportSection
from bench.results import computed, signatures
from bench.results.rows import shown_rows, to_csv
from bench.results.signatures import SIGNED_BY
from bench.system.files import sweep, write_file
from bench.system.text import escape_markdown
from methods.contract.errors import UserError

FOLDER = Path("reports")
NAME = "leaderboard"
WITHOUT_TASKS = "Rows without tasks:"
SEARCHES = f"{NAME}-searches.html"
OWN = re.compile(rf"{NAME}-[a-z0-9-]+(-[0-9]+\.svg|\.html)")
"""Names of figures and pages. `write` deletes files of such a name that belong to a former
model."""


def make_sections(
    results: Sequence[ResultSet],
    papers: Path | None,
    smaller: str = "",
    known: KnownVariance | None = None,
) -> list[ReportSection]:
    """Make a section for each model of all folders, and one for papers at the end.

    papers: folder of their rows. smaller: model whose dense rows larger models have in their
    tables, or "". known: as in `board.make_sections`.
    """
    out = board.make_sections(results, known)
    if smaller:
        out = smaller_models.add_smaller(
            out, smaller, {r.stem: r for one in results for r in one.records}
        )
    of_papers = from_papers.make_section(papers) if papers else None
    if of_papers:
        out.append(of_papers)
    return out


def make_search_sections(results: Sequence[ResultSet]) -> list[ReportSection]:
    """Make a section for each folder, or raise UserError if scores cannot be read."""
    names = [Path(r.name).resolve().name for r in results]
    titles = [n if names.count(n) == 1 else r.name for n, r in zip(names, results, strict=True)]
    return [from_records.make_section(r, title) for r, title in zip(results, titles, strict=True)]


@gc_paused()
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
        for i, section in enumerate(sections):
            if not section.published:
                sections[i] = _with_signers(section, signers)
    figures, fidelity = _draw(sections), table_figures.find_fidelity()
    figure_files = _figure_files(sections, figures)
    found = make_search_sections(of_search)
    for_latex = []
    for section in sections:
        texts = []
        for board_table in section.tables:
            texts += [*board_table.to_text_tables(), *profile.text_tables(board_table)]
            texts += fidelity.text_tables(board_table) if fidelity else []
        for_latex.append((section.title, section.description, texts))
    files = {
        **_pages(sections, figures, found, title),
        f"{NAME}.md": _markdown(sections, figure_files, of_search, title),
        f"{NAME}.csv": _csv(result_sets, signers, [*sections, *found]),
        f"{NAME}.tex": latex.render_document(for_latex),
    }
    for of_section in figure_files.values():
        files |= {name: drawing.to_file(figure.svg) for name, figure in of_section.items()}
    computed.save()
    return {name: text.encode() for name, text in files.items()}


def _pages(
    sections: Sequence[ReportSection],
    figures: Mapping[int, Sequence[TableFigure]],
    of_search: Sequence[ReportSection],
    title: str,
) -> dict[str, str]:
    """Return the first page, one for each section with all that is known of it, and that of
    searches, by file name.

    figures: those of each table, by its number among the tables of all sections.
    """
    first = first_page.choose(sections)
    names = [f"{NAME}-{slug}.html" for slug in _slugs(sections)]
    links = [(n, s.title) for n, s in zip(names, sections, strict=True) if s not in first]
    if of_search:
        links.append((SEARCHES, "Searches and scaling grids"))
    short = [first_page.shorten(section) for section in first]
    pictures = {k: table_figures.draw_size(s.tables[0], s.title) for k, s in enumerate(short)}
    page = replace(
        html.LEADERBOARD,
        title=title,
        links=tuple(links),
        picks=False,
        details=tuple(n for n, s in zip(names, sections, strict=True) if s in first),
    )
    out = {f"{NAME}.html": html.render_page(short, pictures, page, sections)}
    back = ((f"{NAME}.html", "Leaderboard"),)
    number = 0
    for name, section in zip(names, sections, strict=True):
        own = {k: figures.get(number + k, ()) for k in range(len(section.tables))}
        number += len(section.tables)
        about = html.PageKind(f"{section.title}: {title}", html.LEADERBOARD.deck, back)
        out[name] = html.render_page([section], own, about)
    if of_search:
        deck = "Searches for recipes, and grids for scaling laws. " + searches.RULE
        about = html.PageKind("cast-bench searches", deck, back, picks=False)
        out[SEARCHES] = html.render_page(of_search, _draw(of_search), about)
    return out


def _with_signers(section: ReportSection, signers: Mapping[str, str]) -> ReportSection:
    """Add who signed to each record and row, and how many records are signed to the section.
    signers: by record."""
    records = dict(section.records)
    signed = {key: signers[key] for key in records if signers.get(key)}
    for key, who in signed.items():
        records[key] = {**records[key], "status": f"{records[key]['status']}, {SIGNED_BY} {who}"}
    tables = []
    for one in section.tables:
        rows = []
        for row in one.rows:
            keys = chain.from_iterable(cell.records for cell in row.cells if cell)
            rows.append(replace(row, labels=(*row.labels, signatures.of_row(keys, signers))))
        tables.append(replace(one, label_names=(*one.label_names, SIGNED_BY), rows=tuple(rows)))
    about = f"{section.description} · {len(signed):,} signed"
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
    stale = []
    for name in sorted(files.keys() | {path.name for path in _own_files(folder)}):
        path = folder / name
        existing = path.read_bytes() if path.is_file() else None
        if files.get(name) != existing:
            stale.append(path)
    return stale


def _own_files(folder: Path) -> list[Path]:
    """Return the files that a leaderboard need not have: figures and further pages."""
    return [p for p in folder.glob(f"{NAME}-*") if p.is_file() and OWN.fullmatch(p.name)]


def _csv(
    results: Sequence[ResultSet],
    signers: Mapping[str, str] | None,
    sections: Sequence[ReportSection],
) -> str:
    """Write a line for each reading, and one for each cell of a derived column.

    `in_tables` says whether the tables of the sections have the record of a reading. They do not if
    a newer one with the same identity is in another folder. `text` is the text of a derived cell.
    Numbers from papers are left out.
    """
    taken = {(about["folder"], key) for s in sections for key, about in s.records.items()}
    rows: list[Mapping[str, Any]] = []
    for one in results:
        for row in shown_rows(one.records, signers):
            in_tables = "yes" if (one.name, row["record"]) in taken else "no"
            rows.append({**row, "folder": one.name, "in_tables": in_tables, "text": ""})
    tables = [table for section in sections for table in section.tables]
    records = {record.stem: record for one in results for record in one.records}
    return to_csv([*rows, *derived_cells.to_csv_rows(tables, records)])


def _draw(sections: Sequence[ReportSection]) -> dict[int, list[TableFigure]]:
    """Draw the figures of all tables. Returns them by the table's number on the page."""
    every = [(s.title, t) for s in sections for t in s.tables]
    return {k: table_figures.draw_all(t, title) for k, (title, t) in enumerate(every)}


def _slugs(sections: Sequence[ReportSection]) -> list[str]:
    """Return the part of a file name for each section. No two are equal."""
    names = (re.sub(r"[^a-z0-9]+", "-", s.title.lower()).strip("-")[:40] for s in sections)
    slugs = [
        "papers" if s.published else name or "results"
        for s, name in zip(sections, names, strict=True)
    ]
    count = Counter([*slugs, "searches"])
    out: list[str] = []
    for i, slug in enumerate(slugs):
        alone = count[slug] == 1 and slug not in out
        out.append(slug if alone else f"{slug}-{i}")
    return out


def _figure_files(
    sections: Sequence[ReportSection], figures: Mapping[int, Sequence[TableFigure]]
) -> dict[int, dict[str, TableFigure]]:
    """Return the figures of each section's main protocol by file name, by section."""
    slugs = _slugs(sections)
    out, first = {}, 0
    for i, section in enumerate(sections):
        slug = slugs[i]
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
    fidelity = table_figures.find_fidelity()
    best = highlights.find_highlights(sections)
    if best:
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
            beside = list(zip(profile.text_tables(one), profile.CAPTIONS, strict=False))
            if fidelity:
                beside += [(text, fidelity.table_caption) for text in fidelity.text_tables(one)]
            for text, about in beside:
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
