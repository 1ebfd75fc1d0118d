"""Perplexity over training tokens: a table and a picture of methods that were trained with several
budgets."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import perplexity_ratios
import result_folders

from bench.compare.pairing import Seeds
from bench.reporting import pairwise
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
"""Typed fields in a label. A method is one curve, although its learning rate differs between
budgets."""


class Point(NamedTuple):
    """A method after a budget.

    ratios: of its perplexity to each control's after as many tokens; notes: of its trainings, with
    their curves.
    """

    label: str
    tokens: int
    seeds: int
    perplexity: float
    ratios: dict[str, Interval | None]
    notes: tuple[Mapping[str, Any], ...]


@cache
def read(folders: str) -> dict[str, list[Point]]:
    """Return the points of each method of the first folder by tokens. Methods have no typed fields
    in their names.

    Raises:
        ValueError: a method has two rows after as many tokens, so that the folders are no curve.
    """
    first, results = result_folders.read(folders.split(",")[0]), result_folders.merge(folders)
    methods = {
        FIELDS.sub("", record.identity.method)
        for record in first.records
        if record.identity.training
    }
    notes = {r.artifact: r.notes for r in results.records if "curve" in r.notes}
    rows: dict[tuple[str, int], tuple[str, Seeds]] = {}
    for record in results.records:
        identity = record.identity
        if identity.measure == "perplexity" and identity.training:
            method, tokens = FIELDS.sub("", identity.method), identity.training.tokens
            if method not in methods:
                continue
            label, seeds = rows.setdefault((method, tokens), (identity.method, {}))
            if label != identity.method:
                raise ValueError(
                    f"{folders} has both {label} and {identity.method} after {tokens} tokens"
                )
            seeds[identity.seed] = record
    found: dict[str, list[Point]] = {}
    for (method, tokens), (label, seeds) in sorted(rows.items(), key=lambda row: row[0][1]):
        ratios = {
            name: pairwise.compare(
                rows[row, tokens][1], seeds, "perplexity", results, perplexity_ratios.seed_noises()
            )
            for name, row in CONTROLS.items()
            if row != method and (row, tokens) in rows
        }
        of_row = tuple(notes[r.artifact] for r in seeds.values() if r.artifact in notes)
        found.setdefault(method, []).append(
            Point(label, tokens, len(seeds), perplexity_ratios.mean(seeds), ratios, of_row)
        )
    return found


def table(folders: str) -> str:
    """Return a line for each budget and method, the lowest perplexity of a budget first."""
    heads = [
        "training tokens",
        "method",
        "seeds",
        "perplexity",
        *(f"/ {name}, 95% interval" for name in CONTROLS),
    ]
    lines = [
        f"| {' | '.join([*heads, 'mask flipped', 'S after a tenth'])} |",
        f"|---:|---|{'---:|' * 6}",
    ]
    for p in sorted(chain(*read(folders).values()), key=lambda p: (p.tokens, p.perplexity)):
        found = (p.ratios.get(name) for name in CONTROLS)
        ratios = [f"{r.value:.3f} ({r.low:.3f} to {r.high:.3f})" if r else "–" for r in found]
        moves = [
            mask_moves(notes) or (notes["curve"][-1].get("flipped"), None) for notes in p.notes
        ]
        flips, kept = ([x for x in values if x is not None] for values in zip(*moves, strict=True))
        mask = [
            format(statistics.mean(x), form) if x else "–"
            for x, form in ((flips, ".1%"), (kept, ".2f"))
        ]
        cells = [
            f"{p.tokens:,}",
            escape_markdown(p.label),
            str(p.seeds),
            f"{p.perplexity:.2f}",
            *ratios,
            *mask,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def picture() -> str:
    """Draw the ratio to dense-ft over tokens, and flips and S over the steps of each method's
    longest training, as SVG."""
    curves = {method: points for method, points in read(FOLDERS).items() if method != "dense-ft"}
    figure, ((ratios, flips, kept),) = new_figure(900, 260, columns=3)
    for i, (color, (method, points)) in enumerate(
        zip(choose_colors(len(curves)), curves.items(), strict=True)
    ):
        # Beside each other.
        known = [(p.tokens * 1.06**i, r) for p in points if (r := p.ratios.get("dense-ft"))]
        at = [tokens for tokens, _ in known]
        ratios.vlines(
            at, [r.low for _, r in known], [r.high for _, r in known], color=color, alpha=0.5
        )
        ratios.plot(at, [r.value for _, r in known], "o-", color=color, markersize=4, label=method)
        curve = points[-1].notes[0]["curve"] if points[-1].notes else []
        for axis, key in ((flips, "flipped"), (kept, "S")):
            if curve and key in curve[0]:
                axis.plot([row["step"] for row in curve], [row[key] for row in curve], color=color)
    ratios.axhline(1, color=LIGHT["soft"], linewidth=0.8)
    ratios.set(
        xscale="log", xlabel="training tokens", title="perplexity / dense-ft of as many tokens"
    )
    budgets = sorted({p.tokens for p in chain(*curves.values())})
    ratios.set_xticks([], minor=True)
    ratios.set_xticks(budgets, [f"{tokens / 1e6:.1f}M" for tokens in budgets])
    flips.set(xlabel="step of the longest training", title="share of the mask that flipped so far")
    kept.set(xlabel="step of the longest training", title="share of |w| that the mask keeps")
    ratios.legend()
    with temporary_folder("figures") as room:
        return save_figure(
            figure, room / "curve.svg", "Perplexity over training tokens"
        ).read_text()
