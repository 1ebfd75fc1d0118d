"""Records that the leaderboard lacks: for each model that no folder in results/ has, the command
that makes its rows and its cost."""

from __future__ import annotations

from pathlib import Path

from bench.inputs.shapes import known_shapes
from bench.parts.forecasts import plan_costs as estimate
from bench.parts.forecasts.cards import split_cards
from bench.parts.forecasts.cost_model import CostModel
from bench.planning.plan import make_plan
from bench.planning.spec import Spec
from bench.results.store import ReadOnlyStore

ROOT = Path(__file__).parents[1]
METHODS = ("wanda", "sparsegpt", "recon")
QUANTIZERS = ("none", "int4-gptq")


def wanted(*folders: str, card: str = "h100", most: float = 80.0) -> str:
    """Return a Markdown table of the models up to `most` GB on a card that none of the folders has,
    cheapest first."""
    have = {record.identity.model for folder in folders for record in ReadOnlyStore(ROOT / folder)}
    lines = []
    for model in known_shapes().keys() - have:
        spec = Spec(models=(model,), methods=METHODS, quantizers=QUANTIZERS, device=card)
        spec, cards = split_cards(spec)
        rows = estimate.rows(make_plan(spec), CostModel(()), cards)  # no record is of such a card
        on_card = max(row["about_device_GB"] for row in rows)
        if on_card > most:
            continue
        minutes, disk = (
            sum(row["about_s"] for row in rows) / 60,
            sum(row["about_disk_GB"] for row in rows),
        )
        command = (
            f"bench run --model {model} --methods {','.join(METHODS)} --quant "
            f"{','.join(QUANTIZERS)}"
        )
        lines.append(
            (
                on_card,
                f"| {model} | `{command}` | {len(rows)} | {on_card:.0f} | {disk:.0f} | "
                f"{minutes:.0f} |",
            )
        )
    head = (
        "| model | command | rows | GB on the card | GB of disk | minutes of arithmetic "
        "|\n|---|---|---:|---:|---:|---:|\n"
    )
    return head + "\n".join(line for _, line in sorted(lines)) + "\n"
