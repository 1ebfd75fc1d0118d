"""Tables for a paper: booktabs, in a document that compiles as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.report.table import TextTable
from bench.results.rows import IDENTITY

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "-": r"{-}",
    "[": r"{[}",
    "*": r"{*}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\dots{}",
    "·": r"\textperiodcentered{}",
    "’": r"\textquoteright{}",
    "\n": " ",
    "\t": " ",
    "\r": " ",
}
"""In braces: a hyphen, which makes no dash of two, and what the end of the line before would take for its own."""
LETTER_MM, COLUMN_MM = 1.9, 5.0
"""Of a page that is as wide as its widest table."""
LABELS = (*IDENTITY, "source", "rank")


def escape(text: str) -> str:
    """Text that pdflatex prints as it stands; a character that it has no glyph for, by its number."""
    out = "".join(SPECIAL.get(c) or (c if " " <= c <= "~" else f"{{[}}U+{ord(c):04X}]") for c in text)
    return out.replace(",,", ",{},")  # two would be a quotation mark


def document(parts: Sequence[tuple[str, str, Sequence[TextTable]]]) -> str:
    """parts: a title, a sentence and tables each."""
    width = max((_width(g) for *_, grids in parts for g in grids), default=0.0)
    out = [
        "% Made by bench report; copy a table, or compile it all with pdflatex.",
        r"\documentclass{article}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage{textcomp,booktabs,longtable}",
        rf"\usepackage[paperwidth={max(210.0, width + 40):.0f}mm,paperheight=297mm,margin=20mm]{{geometry}}",
        r"\begin{document}",
    ]
    for title, about, grids in parts:
        out += [rf"\section*{{{escape(title)}}}", escape(about), ""]
        out += [table(g) for g in grids]
    return "\n".join([*out, r"\end{document}", ""])


def table(grid: TextTable) -> str:
    spec = "".join("l" if h in LABELS else "r" for h in grid.headers)
    return "\n".join(
        [
            rf"\begin{{longtable}}{{@{{}}{spec}@{{}}}}",
            rf"\multicolumn{{{len(spec)}}}{{@{{}}l}}{{\bfseries {escape(grid.title)}}} \\",
            r"\toprule",
            _line(grid.headers),
            r"\midrule",
            r"\endhead",
            *map(_line, grid.lines),
            r"\bottomrule",
            r"\end{longtable}",
            "",
        ]
    )


def _line(cells: Iterable[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def _width(grid: TextTable) -> float:
    columns = zip(grid.headers, *grid.lines, strict=True)
    return sum(max(map(len, column)) * LETTER_MM + COLUMN_MM for column in columns)
