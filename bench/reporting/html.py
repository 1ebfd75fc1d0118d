"""The page: one file that loads nothing from the network, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from bench.reporting import error_bars, folding, forest, highlights, pareto, pareto_chart, pattern_cost
from bench.reporting.html_data import page_data
from bench.reporting.pick import LIMITS
from bench.reporting.protocol import RULE
from bench.reporting.table import ABSENT
from bench.reporting.view import ReportSection, Table, TableCell
from bench.system.text import printable

ASSETS = Path(__file__).parent.parent / "assets" / "report"
FILTERS = ("model", "pattern", "quantizer")
MAX_VISIBLE_ROWS = 200
"""A table first shows so many rows; a button shows the rest."""
FOREST_CAPTION = (
    "Perplexity over the dense model's, with the 95% interval of the pairs of windows and seeds. Blue: the interval leaves "
    "out 1."
)
PATTERN_CAPTION = (
    "What a pattern costs, without a quantizer. The limits of hardware: sparse tensor cores run 2:4 at 2 times; "
    "(2N-2):2N, such as 6:8, as windows of 2:4 at N/(N-1) times; 4:8 and unstructured patterns not at all."
)
STOPS = {
    "max_bits": ("2", "2.5", "3", "3.25", "3.5", "4", "4.25", "4.5", "5", "5.5", "6", "8", "8.5", "9", "10", "12", "16", "17"),
    "max_loss": (
        "0%", "0.5%", "1%", "2%", "3%", "5%", "7.5%", "10%", "15%", "20%", "30%", "40%", "50%", "75%", "100%", "150%", "200%",
        "300%", "400%", "500%", "1000%",
    ),
    "max_worst_drop": ("0pp", "1pp", "2pp", "3pp", "4pp", "5pp", "7.5pp", "10pp", "15pp", "20pp", "30pp"),
    "min_speedup": ("3", "2", "1.75", "1.5", "1.4", "1.3", "1.2", "1.1", "1"),
    "budget_tokens": ("0", "10k", "20k", "50k", "100k", "200k", "500k", "1M", "2M", "5M", "10M", "100M", "1B", "10B"),
}  # fmt: skip
"""Where the sliders stop, from strict to lax; behind the last stop there is no limit. An address may name any value."""
LIMIT_LABELS = {
    "max_bits": "Most bits per weight",
    "max_loss": "Most loss",
    "max_worst_drop": "Worst task loses at most",
    "min_speedup": "Least speedup",
    "budget_tokens": "Most tokens to make",
}


@cache
def environment() -> jinja2.Environment:
    """Escapes all that goes into a template, whatever the template's name ends in; text is made printable."""
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
    """A value with all text in it printable, but for the page's own markup."""
    if isinstance(value, dict):
        return {_shown(k): _shown(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(v) for v in value]
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(name: str) -> Markup:
    """A method's name that a narrow column may break before a field and its value, and not inside `2:4` or `4e-3`."""
    return Markup("<wbr>").join(re.split(r"(?<=[:=])(?=[A-Za-z])", printable(name)))


def _padded(text: str, width: int) -> Markup:
    """Text with spaces as wide as a digit behind it."""
    return escape(printable(text)) + Markup("\N{FIGURE SPACE}") * (width - len(text))


@dataclass(frozen=True)
class Page:
    """What differs between the leaderboard and the page of searches.

    other, other_name: a file beside this one, "" if there is none; picks: can rows be picked by limits?
    """

    title: str
    deck: str
    other: str = ""
    other_name: str = ""
    picks: bool = True


LEADERBOARD = Page("cast-bench leaderboard", "Pruned and quantized language models: quality, size and speed.")


@dataclass(frozen=True)
class Figure:
    """A figure of one table. template: the name of its SVG; drawing: what that takes."""

    title: str
    caption: str
    template: str
    drawing: Any


def figures_of(table: Table, name: str) -> list[Figure]:
    """All figures of a table: Pareto fronts, ratios to dense, and what each pattern costs. name: whose table it is."""
    title = ", ".join(filter(None, (name, table.protocol or table.title)))
    out = []
    for front in pareto.fronts(table):
        of_front = f"{title}: {front.y.name} against {front.x.name}"
        out.append(Figure(of_front, pareto.describe(front), "figure.svg", pareto_chart.draw(front, of_front)))
    plots: tuple[tuple[Callable[[Table, str], Any], str, str, str], ...] = (
        (forest.draw, "perplexity of each row as a ratio to the dense model", FOREST_CAPTION, "forest.svg"),
        (pattern_cost.draw, "what a pattern costs", PATTERN_CAPTION, "pattern_cost.svg"),
    )
    for draw, what, caption, template in plots:
        if drawing := draw(table, f"{title}: {what}"):
            out.append(Figure(drawing.title, caption, template, drawing))
    return out


def render_figure(figure: Figure, name: str, style: str = "") -> Markup:
    """A figure as SVG. name: makes its ids unique in the page; style: for a file of its own."""
    template = environment().get_template(figure.template)
    return Markup(template.render(c=figure.drawing, id=name, style=Markup(style)))


def figure_style() -> str:
    """CSS of a figure in a file of its own: the page's colors, light and dark, and its rules for figures."""
    css = (ASSETS / "page.css").read_text(encoding="utf-8")
    colors, rules = css.partition("* {")[0], [x for x in css.splitlines() if x.startswith(".front")]
    return "\n".join([colors.partition(":root[data-theme")[0].strip(), *rules, ".paper { fill: var(--paper); }"])


def render_page(sections: Sequence[ReportSection], page: Page = LEADERBOARD) -> str:
    css = (ASSETS / "page.css").read_text(encoding="utf-8")
    js = "".join((ASSETS / name).read_text(encoding="utf-8") for name in ("page.js", "pick.js"))
    numbers = count()
    contexts: list[dict[str, Any]] = [
        {"title": s.title, "description": s.description, "published": s.published}
        | {"tables": [_table(t, next(numbers), s.title) for t in s.tables]}
        for s in sections
    ]
    boards = [
        (t["index"], s["title"], t["protocol"]) for s in contexts for t in s["tables"] if t["picks"] and page.picks
    ]
    template = environment().get_template("page.html")
    return template.render(
        css=css,
        js=js,
        page=page,
        boards=boards,
        limits=LIMITS,
        stops=STOPS,
        csp={"script": _hash(js), "style": _hash(css)},
        sections=contexts,
        highlights=highlights.find_highlights(sections),
        highlight_headers=highlights.HEADERS,
        highlight_caption=highlights.CAPTION,
        max_visible_rows=MAX_VISIBLE_ROWS,
        rule=RULE,
        folding=folding.RULE,
        labels=LIMIT_LABELS,
        has_parts=any(t["has_parts"] for s in contexts for t in s["tables"]),
        data=_shown(page_data(sections, MAX_VISIBLE_ROWS)),
        **_choices(sections),
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _choices(sections: Sequence[ReportSection]) -> dict[str, Any]:
    """What a reader can filter by and show, and how much there is."""
    rows = [r for s in sections for t in s.tables for r in t.rows]
    columns = {c.metric: c for s in sections for t in s.tables for c in t.columns}
    own = [s for s in sections if not s.published]
    return {
        "filters": {key: sorted({r.filters[key] for r in rows} - {""}) for key in FILTERS},
        "metrics": [{"name": m, "label": c.label, "hidden": c.hidden} for m, c in columns.items()],
        "count": {
            "records": f"{sum(len(s.records) for s in own):,}",
            "rows": f"{sum(len(t.whole_rows) for s in own for t in s.tables):,}",
            "sections": len(own),
            "published": f"{sum(len(t.whole_rows) for s in sections if s.published for t in s.tables):,}",
            "noun": ("model" if any(t.protocol for s in own for t in s.tables) else "folder") + "s" * (len(own) != 1),
        },
    }


def _table(table: Table, index: int, section: str) -> dict[str, Any]:
    """A table as the template takes it."""
    by = table.ranked_by
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
        "protocol": table.protocol,
        "picks": any(row.facts and row.facts.compressed for row in table.rows),
        "has_parts": len(table.whole_rows) < len(table.rows),
        "figures": [
            {"svg": render_figure(f, f"f{index}-{k}"), "caption": f.caption}
            for k, f in enumerate(figures_of(table, section))
        ],
    }


def _error_width(cell: TableCell | None) -> int:
    """How many characters of a cell come after its value, from the ± on."""
    return len("".join(cell.text.partition(" ± ")[1:])) if cell else 0


def _note(table: Table, scale: str) -> str:
    rows = len(table.whole_rows)
    parts = [f"{rows:,} row{'s' if rows != 1 else ''}.", scale]
    if table.unranked:
        parts.append(f"No ranks and intervals: {table.unranked:,} rows are too many to compare in pairs.")
    return " ".join(filter(None, parts))
