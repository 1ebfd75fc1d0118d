"""Draw the error of each quantizer's codes on Gaussian weights against its bits."""

from __future__ import annotations

import json
import re
from typing import Any

from page_records import ROOT

from bench.reporting import drawing

FILE = ROOT / "results/benchmarks/codes.json"
FAMILIES = {
    "integers": "int",
    "floats in groups": "nf|mxfp4|nvfp",
    "lookup tables": "lut",
    "K-quants and i-quants": "i?q",
    "HIGGS": "higgs",
    "trellises": "tcq",
}
"""Beginnings of names, in the order of the legend."""
MOST_BITS = 5.2
NAMED = ("int3-gptq", "int4-gptq", "nvfp4", "q2_k", "q3_k", "q4_k", "tcq2", "tcq3", "tcq4")
"""Codes whose names are in the picture."""


def codes_picture() -> str:
    """Return an SVG file: a mark for each code of few bits, and the least error that any code of
    normally distributed weights can have, 4^-bits (Shannon)."""
    figures: dict[str, dict[str, Any]] = json.loads(FILE.read_text())["figures"]
    figure, ((axes,),) = drawing.new_figure(640, 400)
    for (family, start), color in zip(FAMILIES.items(), drawing.SERIES, strict=False):
        own = {name: of for name, of in figures.items() if re.match(start, name)}
        shown = {name: of for name, of in own.items() if of["bits"] <= MOST_BITS}
        bits = [of["bits"] for of in shown.values()]
        errors = [of["error"] for of in shown.values()]
        axes.plot(bits, errors, "o", color=color, markersize=5, label=family)
        for name, of in shown.items():
            if name in NAMED:
                place = (of["bits"], of["error"])
                axes.annotate(name, place, (5, 3), textcoords="offset points", fontsize=8)
    ends = [2.0, MOST_BITS]
    least = [4.0**-bits for bits in ends]
    axes.plot(ends, least, "--", color=drawing.LIGHT["soft"], label="least possible")
    axes.set(yscale="log", xlabel="bits per weight", title="error of Gaussian weights")
    drawing.name_ticks(axes.yaxis)
    axes.legend(fontsize=8, frameon=False)
    return drawing.to_file(drawing.to_svg(figure, "codes: error against bits per weight"))
