"""The page: one file that loads nothing from the network, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bench.report import error_bars, highlights, pareto, pareto_chart
from bench.report.html_data import page_data
from bench.report.table import ABSENT
from bench.report.view import Cell, Section, Table

ASSETS = Path(__file__).parent.parent / "assets" / "report"
FILTERS = ("model", "pattern", "quantizer")
MAX_VISIBLE_ROWS = 200
"""A table first shows so many rows; a button shows the rest."""


@cache
def environment() -> jinja2.Environment:
    """Escapes everything that goes into a template, whatever the template's name ends in."""
    out = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    out.filters["breakable"] = _breakable
    out.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return out


def _breakable(name: str) -> Markup:
    """A method's name that a narrow column may break between its fields."""
    return Markup(":<wbr>").join(name.split(":"))


def render_figure(front: pareto.Front, title: str, name: str, style: str = "") -> Markup:
    """A Pareto front as SVG. name: makes its ids unique in the page; style: for a file of its own."""
    template = environment().get_template("figure.svg")
    return Markup(template.render(c=pareto_chart.draw(front, title), id=name, style=Markup(style)))


def figure_style() -> str:
    """CSS of a figure in a file of its own: the page's colors, light and dark, and its rules for figures."""
    css = (ASSETS / "page.css").read_text(encoding="utf-8")
    colors, rules = css.partition("* {")[0], [x for x in css.splitlines() if x.startswith(".front")]
    return "\n".join([colors.partition(":root[data-theme")[0].strip(), *rules, ".paper { fill: var(--paper); }"])


def render_page(sections: Sequence[Section]) -> str:
    css, js = ((ASSETS / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    numbers = count()
    contexts = [
        {"title": s.title, "description": s.description, "published": s.published}
        | {"tables": [_table(t, next(numbers), s.title) for t in s.tables]}
        for s in sections
    ]
    template = environment().get_template("page.html")
    return template.render(
        css=css,
        js=js,
        csp={"script": _hash(js), "style": _hash(css)},
        sections=contexts,
        highlights=highlights.find_highlights(sections),
        highlight_headers=highlights.HEADERS,
        highlight_caption=highlights.CAPTION,
        max_visible_rows=MAX_VISIBLE_ROWS,
        data=page_data(sections, MAX_VISIBLE_ROWS),
        **_choices(sections),
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _choices(sections: Sequence[Section]) -> dict[str, Any]:
    """What a reader can filter by and show, and how much there is."""
    rows = [r for s in sections for t in s.tables for r in t.rows]
    columns = {c.metric: c for s in sections for t in s.tables for c in t.columns}
    own = [s for s in sections if not s.published]
    return {
        "filters": {key: sorted({r.filters[key] for r in rows} - {""}) for key in FILTERS},
        "metrics": [{"name": m, "label": c.label, "hidden": c.hidden} for m, c in columns.items()],
        "count": {
            "records": f"{sum(len(s.records) for s in own):,}",
            "rows": f"{sum(len(t.rows) for s in own for t in s.tables):,}",
            "sections": len(own),
        },
    }


def _table(table: Table, index: int, section: str) -> dict[str, Any]:
    """A table as the template takes it."""
    by = min(table.ranks, default=None)
    bars = error_bars.draw(table)
    return {
        "index": index,
        "title": table.title,
        "note": _note(table, bars.caption),
        "label_names": table.label_names,
        "columns": table.columns,
        "rows": table.rows,
        "ranked": by is not None,
        "rank_of": "" if by is None else table.columns[by].name,
        "default_ranks": [] if by is None else [rank or ABSENT for rank in table.ranks[by]],
        "error_widths": [
            max(map(_error_width, column), default=0) for column in zip(*(r.cells for r in table.rows), strict=True)
        ],
        "error_bars": bars,
        "figures": [
            {"svg": render_figure(f, f"{section}, {table.title}: {f.y.name} against {f.x.name}", f"f{index}-{k}")}
            | {"caption": pareto.describe(f)}
            for k, f in enumerate(pareto.fronts(table))
        ],
    }


def _error_width(cell: Cell | None) -> int:
    """How many characters of a cell come after its value, from the ± on."""
    return len("".join(cell.text.partition(" ± ")[1:])) if cell else 0


def _note(table: Table, scale: str) -> str:
    parts = [f"{len(table.rows):,} row{'s' if len(table.rows) != 1 else ''}.", scale]
    if table.unranked:
        parts.append(f"No ranks and intervals: {table.unranked:,} rows are too many to compare in pairs.")
    return " ".join(filter(None, parts))
