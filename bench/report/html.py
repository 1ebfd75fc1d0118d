"""The page: one file that asks nothing of the network, and lets nothing run that is not its own."""

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
from bench.report.html_data import payload
from bench.report.table import ABSENT
from bench.report.view import Cell, Section, Table

ASSETS = Path(__file__).parent.parent / "assets" / "report"
FILTERS = ("model", "pattern", "quantizer")
MOST = 200
"""Rows of a table that are shown at once; a button shows the rest."""


@cache
def environment() -> jinja2.Environment:
    """Everything that goes into a template is escaped, whatever the template's name ends in."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters["breakable"] = _breakable
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return found


def _breakable(name: str) -> Markup:
    """A method's name, which a narrow column may break between its fields."""
    return Markup(":<wbr>").join(name.split(":"))


def figure(front: pareto.Front, title: str, name: str, style: str = "") -> Markup:
    """A front as SVG. name: makes its ids the page's only ones; style: of a file that stands alone."""
    text = (
        environment().get_template("figure.svg").render(c=pareto_chart.draw(front, title), id=name, style=Markup(style))
    )
    return Markup(text)  # what it was made of is escaped already


def style() -> str:
    """Of a figure that stands alone: the page's colors, light and dark, and its rules for figures."""
    css = (ASSETS / "page.css").read_text(encoding="utf-8")
    colors, rules = css.partition("* {")[0], [x for x in css.splitlines() if x.startswith(".front")]
    return "\n".join([colors.partition(":root[data-theme")[0].strip(), *rules, ".paper { fill: var(--paper); }"])


def html(sections: Sequence[Section]) -> str:
    css, js = ((ASSETS / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    numbers = count()
    shown = [
        {"title": s.title, "about": s.about, "published": s.published}
        | {"tables": [_table(t, next(numbers), s.title) for t in s.tables]}
        for s in sections
    ]
    template = environment().get_template("page.html")
    return template.render(
        css=css,
        js=js,
        csp={"script": _hash(js), "style": _hash(css)},
        sections=shown,
        short=highlights.of(sections),
        short_about=highlights.ABOUT,
        most=MOST,
        data=payload(sections, MOST),
        **_choices(sections),
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _choices(sections: Sequence[Section]) -> dict[str, Any]:
    """What there is to filter by and to show, and how much of it."""
    rows = [r for s in sections for t in s.tables for r in t.rows]
    columns = {c.metric: c for s in sections for t in s.tables for c in t.columns}
    ours = [s for s in sections if not s.published]
    return {
        "filters": {key: sorted({r.about[key] for r in rows} - {""}) for key in FILTERS},
        "metrics": [{"name": m, "label": c.label, "quiet": c.quiet} for m, c in columns.items()],
        "count": {
            "records": f"{sum(len(s.made) for s in ours):,}",
            "rows": f"{sum(len(t.rows) for s in ours for t in s.tables):,}",
            "sections": len(ours),
        },
    }


def _table(table: Table, index: int, section: str) -> dict[str, Any]:
    """A table as the template asks for it."""
    by = min(table.ranks, default=None)
    drawn = error_bars.of(table)
    fronts = pareto.of(table)
    return {
        "index": index,
        "title": table.title,
        "note": _note(table, drawn.told),
        "told": table.told,
        "columns": table.columns,
        "rows": table.rows,
        "ranked": by is not None,
        "rank_of": "" if by is None else table.columns[by].name,
        "default_ranks": [] if by is None else [rank or ABSENT for rank in table.ranks[by]],
        "spread": [max(map(_after, column), default=0) for column in zip(*(r.cells for r in table.rows), strict=True)],
        "bars": drawn,
        "figures": [
            {"svg": figure(f, f"{section}, {table.title}: {f.y.name} against {f.x.name}", f"f{index}-{k}")}
            | {"told": pareto.told(f)}
            for k, f in enumerate(fronts)
        ],
    }


def _after(cell: Cell | None) -> int:
    """Letters of a cell from its ± on."""
    return len("".join(cell.text.partition(" ± ")[1:])) if cell else 0


def _note(table: Table, scale: str) -> str:
    told = [f"{len(table.rows):,} row{'s' if len(table.rows) != 1 else ''}.", scale]
    if table.unranked:
        told.append(f"Not ranked, and without intervals: {table.unranked:,} rows are too many to compare two by two.")
    return " ".join(filter(None, told))
