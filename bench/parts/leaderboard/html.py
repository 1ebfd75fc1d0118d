"""The page: one file that loads nothing from the network, and runs only its own script."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from bench.parts.leaderboard.html_data import page_data
from bench.parts.leaderboard.table_figures import TableFigure
from bench.reporting import drawing, folding
from bench.reporting.limits import LIMITS
from bench.reporting.protocol import RULE
from bench.reporting.table import ABSENT, SPREAD, caption
from bench.reporting.view import ReportSection, Table, TableRow
from bench.system.grouping import group_by
from bench.system.text import amount, printable

ASSETS = Path(__file__).parent / "page"
FILTERS = ("model", "pattern", "quantizer")
MAX_VISIBLE_ROWS = 200
"""Rows that a table shows at first. A button shows the rest."""


@cache
def environment() -> jinja2.Environment:
    """Return an environment that escapes all that goes into a template, and makes text
    printable."""
    out = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )
    out.filters["breakable"] = _breakable
    out.filters["padded"] = _padded
    out.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return out


def _shown(value: Any) -> Any:
    """Make all text in a value printable, except the page's own markup."""
    if isinstance(value, dict):
        return {_shown(k): _shown(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(v) for v in value]
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value


def _breakable(name: str) -> Markup:
    """Let a narrow column break a method's name before a field and its value, and not inside `2:4`
    or `4e-3`."""
    return Markup("<wbr>").join(re.split(r"(?<=[:=])(?=[A-Za-z])", printable(name)))


def _padded(text: str, width: int) -> Markup:
    """Pad a text on the right with spaces as wide as a digit."""
    return escape(printable(text)) + Markup("\N{FIGURE SPACE}") * (width - len(text))


@dataclass(frozen=True)
class PageKind:
    """The words of a page and its links.

    links: files beside this one, with their names; picks: whether rows can be picked by limits;
    details: of a first page, the file of each section.
    """

    title: str
    deck: str
    links: tuple[tuple[str, str], ...] = ()
    picks: bool = True
    details: tuple[str, ...] = ()


LEADERBOARD = PageKind(
    "cast-bench leaderboard", "Pruned and quantized language models: quality, size and speed."
)


def render_page(
    sections: Sequence[ReportSection],
    figures: Mapping[int, Sequence[TableFigure]],
    page: PageKind = LEADERBOARD,
    counted: Sequence[ReportSection] = (),
) -> str:
    """Render the page.

    figures: those of each table, by its number on the page. counted: sections whose records and
    rows the page counts, by default its own.
    """
    css = palette() + (ASSETS / "page.css").read_text(encoding="utf-8")
    js = "".join((ASSETS / name).read_text(encoding="utf-8") for name in ("page.js", "pick.js"))
    numbers = count()
    data = page_data(sections, MAX_VISIBLE_ROWS, page.picks)
    contexts: list[dict[str, Any]] = []
    boards = []
    for i, section in enumerate(sections):
        tables = []
        for one in section.tables:
            k = next(numbers)
            notes = () if page.details else one.notes
            tables.append(_table(one, k, figures.get(k, ()), notes))
            if data["tables"][k]["choices"]:
                boards.append((k, section.title, one.protocol))
        contexts.append(
            {
                "title": section.title,
                "description": section.description,
                "published": section.published,
                "details": page.details[i] if page.details else "",
                "tables": tables,
            }
        )
    template = environment().get_template("page.html")
    return template.render(
        css=css,
        js=js,
        page=page,
        boards=boards,
        limits=LIMITS,
        csp={"script": _hash(js), "style": _hash(css)},
        sections=contexts,
        max_visible_rows=MAX_VISIBLE_ROWS,
        rule=RULE,
        spread=SPREAD,
        folding=folding.RULE,
        has_parts=any(row.part_of is not None for row in _all_rows(sections)),
        data=_shown(data),
        count=_describe_counts(counted or sections),
        **_choices(sections),
    )


def palette() -> str:
    """Return CSS for the colors of the page and its figures, by the reader's color scheme or the
    page's button."""
    light = ";".join(f"--{name}:{color}" for name, color in drawing.LIGHT.items())
    dark = ";".join(f"--{name}:{color}" for name, color in drawing.DARK.items())
    figures = "\n".join(
        f'.figure [{part}="{color}"] {{ {part}: var(--{name}); }}'
        for name, color in drawing.LIGHT.items()
        for part in ("fill", "stroke")
    )
    return (
        f":root {{ {light}; color-scheme: light; }}\n"
        "@media screen {\n"  # paper is light
        f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {dark}; '
        f"color-scheme: dark; }} }}\n"
        f':root[data-theme="dark"] {{ {dark}; color-scheme: dark; }} }}\n{figures}\n'
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _choices(sections: Sequence[ReportSection]) -> dict[str, Any]:
    """Return what a reader can filter by and show."""
    rows = _all_rows(sections)
    filters = {}
    for key in FILTERS:
        filters[key] = sorted({row.filters[key] for row in rows} - {""})
    columns = group_by(
        (c for s in sections for t in s.tables for c in t.columns), lambda column: column.metric
    )
    of_metrics = []
    for name, some in columns.items():
        hidden = {column.hidden for column in some}
        of_metrics.append(
            {
                "name": name,
                "label": some[0].label,
                "every": hidden == {False},
                "mixed": len(hidden) > 1,
            }
        )
    return {"filters": filters, "metrics": of_metrics}


def _all_rows(sections: Iterable[ReportSection]) -> list[TableRow]:
    return [row for section in sections for table in section.tables for row in table.rows]


def _describe_counts(sections: Sequence[ReportSection]) -> str:
    """Say how many records and rows a page has."""
    own = [s for s in sections if not s.published]
    published = _count_rows(s for s in sections if s.published)
    counts = []
    if own:
        records = amount(sum(len(s.records) for s in own), "record")
        kind = "model" if any(t.protocol for s in own for t in s.tables) else "folder"
        rows = amount(_count_rows(own), "row")
        counts.append(f"{records} of {amount(len(own), kind)} in {rows}")
    if published:
        counts.append(f"{amount(published, 'row')} published by others")
    return ", and ".join(counts)


def _count_rows(sections: Iterable[ReportSection]) -> int:
    return sum(row.part_of is None for row in _all_rows(sections))


def _table(
    table: Table, index: int, figures: Sequence[TableFigure], notes: Sequence[str]
) -> dict[str, Any]:
    rank_of, ranks = "", []
    by = table.ranked_by
    if by is not None:
        rank_of, ranks = table.columns[by].name, [rank or ABSENT for rank in table.ranks[by]]
    rows = amount(len(table.whole_rows), "row")
    widths = [0] * len(table.columns)
    for row in table.rows:
        for c, cell in enumerate(row.cells):
            if cell:
                _, sign, error = cell.text.partition(" ± ")
                widths[c] = max(widths[c], len(sign + error))
    return {
        "index": index,
        "title": table.title,
        "note": " ".join((f"{caption(table.title)}. {rows}.", *notes)),
        "label_names": table.label_names,
        "columns": table.columns,
        "rows": table.rows,
        "rank_of": rank_of,
        "default_ranks": ranks,
        "error_widths": widths,
        "protocol": table.protocol,
        "has_parts": len(table.whole_rows) < len(table.rows),
        "figures": [{"svg": Markup(f.svg), "caption": f.caption} for f in figures],
    }
