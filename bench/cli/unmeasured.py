"""What `bench pick` says of a model without records: papers, sizes, and what to run."""

from __future__ import annotations

import contextlib
import json as json_module
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.cli.console import print_json, print_line, print_lines, print_wrapped
from bench.system.text import one_line
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.inputs.model_facts import ModelFacts
    from bench.reporting.from_papers import PaperRow
    from bench.reporting.limits import Limits

MAX_WIDTH = 80
MAX_NAMES = 5
"""Most names in a sentence."""
MAX_PAPERS = 6
"""Most rows of papers, and of another model, that are printed."""
USUAL, USUAL_GGUF = ("int8", "int4-gptq"), ("int8", "q6_k", "q4_k")
"""Quantizers that a first run measures."""


def print_unmeasured(model: str, limits: Limits, engine: str, json: bool) -> None:
    """Print what is known of a model without records, and the command that measures it."""
    from bench.reporting import similar_models, words
    from bench.reporting.serving import engines, suggest

    facts = _facts_of(model)
    papers = similar_models.papers_about(model)
    family, parameters = "", 0.0
    if facts:
        family = str(facts.config.get("model_type", ""))
        parameters = float(sum(map(math.prod, facts.shapes.values())))
    near = similar_models.nearest(family, parameters)
    sizes = suggest(facts, engine, near) if facts else []
    fitting = [one for one in sizes if limits.max_mb is None or one.megabytes <= limits.max_mb]
    offered = [one.quantizer for one in fitting or sizes[-1:]] or list(USUAL)
    quantizers = [name for name in offered if name in USUAL] or offered[:MAX_NAMES]
    if engine == "llama.cpp":
        quantizers = [name for name in offered if name in USUAL_GGUF] or offered
    methods = "awq" if "int4-gptq" in quantizers and engine != "llama.cpp" else "dense"
    asked = ["--model", model, "--methods", methods, "--quant", ",".join(quantizers)]
    run = shlex.join(["bench", "run", *asked])
    if json:
        answer = {
            "model": model,
            "measured": False,
            "papers": [row.model_dump(mode="json") for row in papers],
            "nearest": [row._asdict() for row in near],
            "sizes": [one._asdict() for one in sizes],
            "run": run,
        }
        print_json(json_module.dumps(answer, indent=1))
        return
    say(f"{model} has no records here, so nothing says what it loses.")
    if sizes:
        print_line()
        kind = f"files of {engine}" if engine else "files with the quantized tensors"
        say(f"Sizes, computed from its shapes ({kind}):")
        _print_cells(
            ["quantizer", "MB", "bits per weight", "export"],
            [[s.quantizer, f"{s.megabytes:,.0f}", f"{s.bits:.4g}", s.export] for s in sizes],
            {"quantizer", "export"},
        )
        if not fitting:
            say(f"None has at most {limits.max_mb:,.15g} MB: choose a smaller model.")
    if papers:
        _print_papers(papers)
    first = near[0]
    print_line()
    say(
        f"The nearest model measured here is {first.model} ({first.parameters / 1e6:,.0f} million "
        "parameters). A larger model usually loses less:"
    )
    rows = []
    for one in near[:MAX_PAPERS]:
        label = one.method if one.pattern == one.method else f"{one.method} {one.pattern}"
        loss = words.percent(one.loss, one.low, one.high)
        rows.append([label, one.quantizer.split(":")[0], f"{one.bits:.4g}", loss])
    _print_cells(["row", "quantizer", "bits per weight", "loss"], rows, {"row", "quantizer"})
    print_line()
    cost = shlex.join(["bench", "plan", *asked, "--device", "a10"])
    say_command("Its cost, for example on an A10", cost)
    say_command("Measure it", run)
    again = ["bench", "pick", "--model", model, "--results", "results/local"]
    if engine:
        again += ["--engine", engine]
    say_command("Then pick", shlex.join(again))
    if not engine:
        say(f"--engine {', '.join(engines())}: only what that engine runs.")


def _print_papers(papers: Sequence[PaperRow]) -> None:
    """Print the best rows of the text that most rows of papers are on."""
    counts = Counter(row.protocol for row in papers)
    protocol = counts.most_common(1)[0][0]
    own = [row for row in papers if row.protocol == protocol]
    dense = next((row.perplexity for row in own if row.method == "dense"), None)
    print_line()
    say(f"From papers about {own[0].model}, on {protocol}. None was measured here:")
    rows = []
    for row in own[:MAX_PAPERS]:
        ratio = "–" if dense is None else f"{row.perplexity / dense:.2f}"
        shape = row.pattern if row.quantizer == "none" else row.quantizer
        label = row.method if row.method == shape else f"{row.method} {shape}"
        rows.append([label, f"{row.perplexity}", ratio, row.source])
    _print_cells(["row", "perplexity", "ratio", "source"], rows, {"row", "source"})


def _facts_of(model: str) -> ModelFacts | None:
    """Return the facts of a model from its shapes or config, or None without a network."""
    from bench.inputs.shapes import fetched_model, planned_model

    if found := planned_model(model):
        return found
    with contextlib.suppress(UserError):
        return fetched_model(model, None)
    return None


def _print_cells(heads: list[str], rows: list[list[str]], words: set[str]) -> None:
    from bench.cli.tables import print_table

    right = [head not in words for head in heads]
    print_table(heads, rows, right=right, width=MAX_WIDTH)


def say(sentence: str) -> None:
    """Print a sentence, broken between words."""
    print_wrapped(sentence, MAX_WIDTH)


def say_command(title: str, command: str) -> None:
    """Print a command that can be copied: broken before flags, with a backslash at each line's
    end."""
    chunks: list[str] = []
    for word in shlex.split(command):
        word = shlex.quote(word)
        if chunks and chunks[-1].startswith("--") and " " not in chunks[-1]:
            chunks[-1] += f" {word}"
        else:
            chunks.append(word)
    lines = chunks[:1]
    for chunk in chunks[1:]:
        if len(lines[-1]) + 1 + len(chunk) > MAX_WIDTH - 6:
            lines.append(chunk)
        else:
            lines[-1] += f" {chunk}"
    print_lines(f"{title}:\n  " + " \\\n    ".join(map(one_line, lines)))
