"""Tables for a paper, with booktabs, in a complete document."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from bench.reporting.table import TextTable

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
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "≥": r"$\geq$",
    "−": r"$-$",
    "\n": " ",
    "\t": " ",
    "\r": " ",
}
"""Replacements. Hyphens are in braces because two would become a dash, brackets because they could
be an argument."""
LETTER_MM, COLUMN_MM = 1.9, 5.0
"""Estimated widths of a letter and of the space between columns. The page is as wide as its widest
table."""


def escape(text: str) -> str:
    """Escape text for pdflatex. A character without a glyph is printed as its number."""
    out = "".join(
        SPECIAL.get(c) or (c if " " <= c <= "~" else f"{{[}}U+{ord(c):04X}]") for c in text
    )
    return re.sub(",(?=,)", ",{}", out)  # two commas would become a quotation mark


def render_document(parts: Sequence[tuple[str, str, Sequence[TextTable]]]) -> str:
    """Render a document. parts: title, description and tables of each section."""
    width = max((_width(t) for *_, tables in parts for t in tables), default=0.0)
    paper = rf"paperwidth={max(210.0, width + 40):.0f}mm,paperheight=297mm"
    out = [
        "% Made by bench report; copy a table, or compile it all with pdflatex.",
        r"\documentclass{article}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage{textcomp,booktabs,longtable}",
        rf"\usepackage[{paper},margin=20mm]{{geometry}}",
        r"\begin{document}",
    ]
    for title, description, tables in parts:
        out += [rf"\section*{{{escape(title)}}}", escape(description), ""]
        out += [render_table(t) for t in tables]
    return "\n".join([*out, r"\end{document}", ""])


def render_table(table: TextTable) -> str:
    spec = "".join("l" if table.is_worded(h) else "r" for h in table.headers)
    return "\n".join(
        [
            rf"\begin{{longtable}}{{@{{}}{spec}@{{}}}}",
            rf"\multicolumn{{{len(spec)}}}{{@{{}}l}}{{\bfseries {escape(table.title)}}} \\",
            r"\toprule",
            _line(table.headers),
            r"\midrule",
            r"\endhead",
            *map(_line, table.lines),
            r"\bottomrule",
            r"\end{longtable}",
            *(rf"\noindent {escape(note)}\par" for note in table.notes),
            "",
        ]
    )


def render_column(table: TextTable, bold: Collection[tuple[int, int]] = ()) -> str:
    """Render a table for one column of a paper: a tabular of booktabs, as wide as its text.

    bold: line and column of the cells in bold.
    """
    spec = "".join("l" if table.is_worded(h) else "r" for h in table.headers)
    lines = []
    for n, line in enumerate(table.lines):
        cells = []
        for at, cell in enumerate(line):
            text = escape(cell)
            cells.append(rf"\textbf{{{text}}}" if (n, at) in bold else text)
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join(
        [
            f"% {table.title}. Made by bench table; needs \\usepackage{{booktabs}}.",
            rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
            r"\toprule",
            _line(re.sub(r"@\S*| \(.*\)", "", head) for head in table.headers),
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _line(cells: Iterable[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def _width(table: TextTable) -> float:
    columns = zip(table.headers, *table.lines, strict=True)
    return sum(max(map(len, column)) * LETTER_MM + COLUMN_MM for column in columns)
