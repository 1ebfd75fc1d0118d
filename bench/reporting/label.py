"""Labels of figures: how wide they are, and how they are cut to fit.

The reader's font is not known. Widths are those of DejaVu Sans, one of the widest that a browser takes for system-ui.
"""

from __future__ import annotations

SIZE = 11
"""Of the style sheet, in pixels."""
NARROW, WIDE = "fijlrtI .,:;'|!()[]-", "mwMW@%+=~…"
BOLD = 1.12
"""By how much bold letters are wider."""


def width(text: str, bold: bool = False) -> float:
    """In pixels, rather too wide than too narrow."""
    ems = sum(0.4 if c in NARROW else 0.95 if c in WIDE else 0.64 for c in text)
    return ems * SIZE * (BOLD if bold else 1)


def cut(text: str, pixels: float, bold: bool = False) -> str:
    """A text, or as much of its start as fits, with an ellipsis."""
    if width(text, bold) <= pixels:
        return text
    fitting = (text[:k].rstrip() + "…" for k in range(len(text) - 1, 0, -1))
    return next((one for one in fitting if width(one, bold) <= pixels), "…")
