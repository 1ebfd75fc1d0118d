"""Picture, times and lines of code of the README.

The picture is what `bench` prints for records of results/tiny-default. The time on a card is that
of the page's own `bench plan`, and the time on a CPU is that of a benchmark.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
from collections.abc import Callable

import size_pictures
from page_records import ROOT, read
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from bench.cli.console import print_text_table, print_wrapped
from bench.inputs.datasheets import device_specs
from bench.inputs.shapes import planned_model
from bench.parts.forecasts.cards import split_cards
from bench.parts.forecasts.cost_model import CostModel
from bench.parts.forecasts.plan_costs import estimate_columns
from bench.planning.plan import make_plan
from bench.planning.spec import Spec
from bench.reporting import board, overview
from bench.reporting.words import duration

SHOWN = "results/tiny-default"
COMMAND = "bench run --methods magnitude,wanda,sparsegpt --set perplexity.windows=all"
WIDTH = 80


def picture() -> str:
    """Return the terminal with a run of the bundled model as SVG, without fonts of other sites."""
    results = read(SHOWN)
    one = next(board.boards_of("tiny", results))
    made = overview.make(one)
    assert made, SHOWN
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        print_text_table(made.table, made.table.notes, WIDTH)
        for sentence in made.verdicts:
            print_wrapped(sentence, width=WIDTH)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), color_system=None)
    console.print(Text(f"$ {COMMAND}\n{printed.getvalue()}".rstrip()))
    svg = console.export_svg(title="cast-bench", theme=MONOKAI, unique_id="run")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def times() -> str:
    """Return how long the page's commands take, on a card by the plan and on a CPU by a benchmark,
    and the sizes of the models whose results are shown."""
    page = (ROOT / "README.md").read_text()
    model = _find(r"^MODEL=(\S+)", page)
    words = shlex.split(_find(r"^bench plan (.*?)#", page))
    typed = dict(zip(words[::2], words[1::2], strict=True))
    spec, cards = split_cards(
        Spec(
            models=(model,),
            methods=typed["--methods"],
            quantizers=typed["--quant"],
            device=typed["--device"],
        )
    )
    rows = estimate_columns(make_plan(spec), CostModel(()), cards)
    seconds = sum(row["about_s"] for row in rows)
    facts = planned_model(model)
    assert facts, model
    gigabytes = facts.download_bytes / 1e9
    name = device_specs()[typed["--device"]].name.split(",")[0]
    timed = json.loads((ROOT / "results/benchmarks/default_run.json").read_text())
    here = timed["figures"]["now with CAST"]["whole, seconds"]
    processor = timed["provenance"]["machine"]["cpu"]
    return (
        "The plan downloads nothing. "
        f"The run takes about {duration(seconds)} on one {name}, estimated by `bench plan`, after "
        f"a download of {gigabytes:.0f} GB. The other commands take seconds to minutes. On a CPU, "
        f"`bench run` for the bundled model took {duration(here)}, measured with two threads of an "
        f"{processor}.\n\n{sizes()}"
    )


def _find(pattern: str, page: str) -> str:
    """Return the group of a pattern in README, or exit."""
    found = re.search(pattern, page, re.MULTILINE)
    if found is None:
        sys.exit(f"README.md has no line like {pattern}")
    return found[1]


def lines(file: str) -> str:
    """Return the class of a file as a block of code."""
    text = (ROOT / file).read_text()
    return f"```python\n{text[text.index('@dataclass') :].strip()}\n```"


def sizes() -> str:
    """Return the sentence on the sizes of the models whose results are shown."""
    weights = list(size_pictures.read(f"{SHOWN},results/main").weights.values())
    least, most = weights[0] / 1e6, weights[-1] / 1e9
    return (
        f"All results in this repository are of models with {least:.1f} million to {most:.1f} "
        "billion weights, measured on CPUs. The code for CUDA has not run on a GPU yet."
    )


TABLES: dict[str, Callable[..., str]] = {"minutes": times, "lines": lines}
