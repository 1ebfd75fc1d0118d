"""Perplexity over training tokens: a table and a picture of methods with several budgets."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

from page_records import DASH, compare, markdown, mean, merge, ratio_text
from page_records import read as read_folder

from bench.comparing.pairing import Seeds
from bench.reporting.drawing import LIGHT, choose_colors, new_figure, save_figure
from bench.reporting.facts import Interval
from bench.reporting.labelled_rows import mask_moves
from bench.system.cache import temporary_folder
from bench.system.text import escape_markdown

FOLDERS = "results/tiny-long,results/tiny-recon"
"""Folders of the picture."""
CONTROLS = {"dense-ft": "dense-ft", "retrain": "sparsegpt + recon + retrain"}
"""Rows that the others are divided by, by their names in the headers."""
FIELDS = re.compile(r":(?!from=)[^: ]+=[^: ]+")
"""Typed fields in a label. A method is one curve, whatever its learning rates are."""


class Point(NamedTuple):
    """A method after a budget."""

    label: str
    tokens: int
    seeds: int
    perplexity: float
    ratios: dict[str, Interval | None]
    """Ratio of its perplexity to each control's after as many tokens."""
    notes: tuple[Mapping[str, Any], ...]
    """Notes of its trainings, with their curves."""


@cache
def read(folders: str) -> dict[str, list[Point]]:
    """Return the points of each method of the first folder, by tokens. Names have no typed fields.

    Raises:
        ValueError: a method has two rows after as many tokens, so that the folders are no curve.
    """
    first, results = read_folder(folders.split(",")[0]), merge(folders)
    trained = [record.identity.method for record in first.records if record.identity.training]
    methods = {FIELDS.sub("", method) for method in trained}
    notes = {r.artifact: r.notes for r in results.records if "curve" in r.notes}
    rows: dict[tuple[str, int], tuple[str, Seeds]] = {}
    for record in results.records:
        identity = record.identity
        method = FIELDS.sub("", identity.method)
        if identity.measure != "perplexity" or not identity.training or method not in methods:
            continue
        own, tokens = identity.method, identity.training.tokens
        label, seeds = rows.setdefault((method, tokens), (own, {}))
        if label != own:
            raise ValueError(f"{folders} has both {label} and {own} after {tokens} tokens")
        seeds[identity.seed] = record
    found: dict[str, list[Point]] = {}
    for (method, tokens), (label, seeds) in sorted(rows.items(), key=lambda row: row[0][1]):
        ratios = {}
        for name, control in CONTROLS.items():
            if control != method and (control, tokens) in rows:
                ratios[name] = compare(rows[control, tokens][1], seeds, results)
        of_row = tuple(notes[r.artifact] for r in seeds.values() if r.artifact in notes)
        point = Point(label, tokens, len(seeds), mean(seeds), ratios, of_row)
        found.setdefault(method, []).append(point)
    return found


def table(folders: str) -> str:
    """Return a row for each budget and method, the lowest perplexity of a budget first."""
    rows = []
    for p in sorted(chain(*read(folders).values()), key=lambda p: (p.tokens, p.perplexity)):
        ratios = [ratio_text(p.ratios.get(name)) for name in CONTROLS]
        moves = []
        for notes in p.notes:
            moves.append(mask_moves(notes) or (notes["curve"][-1].get("flipped"), None))
        flips, kept = (_mean(values) for values in zip(*moves, strict=True))
        flipped = DASH if flips is None else f"{flips:.1%}"
        left = DASH if kept is None else f"{kept:.2f}"
        cells = (f"{p.tokens:,}", escape_markdown(p.label), str(p.seeds), f"{p.perplexity:.2f}")
        rows.append((*cells, *ratios, flipped, left))
    headers = (">training tokens", "method", ">seeds", ">perplexity")
    controls = (f">/ {name}, 95% interval" for name in CONTROLS)
    return markdown((*headers, *controls, ">mask flipped", ">S after a tenth"), rows)


def _mean(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def picture() -> str:
    """Draw the ratio to dense-ft over tokens, and flips and S over the steps, as SVG.

    Flips and S are those of each method's longest training.
    """
    curves = {method: points for method, points in read(FOLDERS).items() if method != "dense-ft"}
    figure, ((ratios, flips, kept),) = new_figure(900, 260, columns=3)
    for i, (method, points) in enumerate(curves.items()):
        color = choose_colors(len(curves))[i]
        known = [(p.tokens, p.ratios["dense-ft"]) for p in points if p.ratios.get("dense-ft")]
        # Beside each other.
        at = [tokens * 1.06**i for tokens, _ in known]
        low, high = [r.low for _, r in known], [r.high for _, r in known]
        ratios.vlines(at, low, high, color=color, alpha=0.5)
        values = [r.value for _, r in known]
        ratios.plot(at, values, "o-", color=color, markersize=4, label=method)
        curve = points[-1].notes[0]["curve"] if points[-1].notes else []
        for axis, key in ((flips, "flipped"), (kept, "S")):
            if curve and key in curve[0]:
                axis.plot([row["step"] for row in curve], [row[key] for row in curve], color=color)
    ratios.axhline(1, color=LIGHT["soft"], linewidth=0.8)
    title = "perplexity / dense-ft of as many tokens"
    ratios.set(xscale="log", xlabel="training tokens", title=title)
    budgets = sorted({p.tokens for p in chain(*curves.values())})
    ratios.set_xticks([], minor=True)
    ratios.set_xticks(budgets, [f"{tokens / 1e6:.1f}M" for tokens in budgets])
    step = "step of the longest training"
    flips.set(xlabel=step, title="share of the mask that flipped so far")
    kept.set(xlabel=step, title="share of |w| that the mask keeps")
    ratios.legend()
    with temporary_folder("figures") as room:
        saved = save_figure(figure, room / "curve.svg", "Perplexity over training tokens")
        return saved.read_text()
