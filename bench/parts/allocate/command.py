"""`bench allocate`: bits and patterns by layer."""

from __future__ import annotations

import json as json_module
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.catalog.entries import DEFAULT_PRUNER
from bench.cli.console import fail, note, print_rows
from bench.cli.flags import OF_RUNS, Json, file_option, spec_of, split_list, with_flags
from bench.system.files import write_file
from methods.contract.errors import Skipped, UserError


@with_flags(*OF_RUNS, "methods", "models", "quantizers", "results")
def allocate(
    choices: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="What a linear can have: a quantizer, a pattern (2:4), both (2:4+int4-gptq), or "
            "dense for neither.",
        ),
    ],
    out: Annotated[
        Path, file_option("--out", "JSON file to write, for --quant allocated:file=FILE.")
    ],
    bits: Annotated[
        float | None,
        typer.Option(
            help="Mean bits per weight that all linears may use, with scales and masks.", min=0
        ),
    ] = None,
    kept: Annotated[
        float | None,
        typer.Option(help="Mean fraction of the weights that all linears may keep.", min=0, max=1),
    ] = None,
    pruner: Annotated[
        str, typer.Option(help="Method that prunes the linears that get a pattern.")
    ] = DEFAULT_PRUNER,
    methods: Annotated[
        str | None,
        typer.Option("--method", help="Method whose model is quantized [default: dense]."),
    ] = None,
    models: Annotated[
        str | None, typer.Option("--model", help="Alias, hub id or folder [default: tiny].")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seed", help="Seed of the calibration text [default: 0].")
    ] = None,
    tokens: Annotated[
        int,
        typer.Option(help="Calibration tokens: half to choose, half to judge the result.", min=1),
    ] = 4096,
    swaps: Annotated[
        int, typer.Option(help="Swaps of choices to measure in the whole model.", min=0)
    ] = 32,
    json: Json = False,
    **flags: Any,
) -> None:
    """Share bits, or weights, among linears by measured damage.

    Each choice is measured in each linear alone: the KL divergence on calibration text. The choices
    with the lowest sum within the budget are then improved by swaps, measured in the whole model.
    Other text judges the result beside each choice alone. The file has the best that fits.
    """
    fixed = {"methods": methods, "models": models, "measures": "size", "seeds": seeds}
    spec = spec_of(flags | fixed, methods="dense", models="tiny", seeds=0)
    if any(len(x) != 1 for x in (spec.methods, spec.models, spec.patterns, spec.seeds)):
        raise UserError("bench allocate takes one method, one model, one pattern and one seed")
    if (bits is None) == (kept is None):
        raise UserError("bench allocate takes one budget: --bits 4.2, or --kept 0.5")
    from bench.parts.allocate import allocation
    from bench.verify import CheckFailed

    budget = allocation.Budget(bits or kept or 0.0, of_kept=bits is None)
    if not math.isfinite(budget.limit):
        raise UserError(f"invalid {budget.option}={budget.limit}: must be a finite number")
    try:
        shares = allocation.allocate(
            spec, split_list("--choices", choices), budget, tokens, swaps, note, pruner
        )
    except CheckFailed as failure:
        fail(f"check failed: {failure}. Nothing was written.", 1)
    except Skipped as fault:
        raise UserError(f"{methods or 'dense'} cannot run here: {fault}") from None
    write_file(
        out, json_module.dumps(allocation.to_file(shares, budget, spec, pruner), indent=1) + "\n"
    )
    print_rows([_row(share) for share in shares], json)


def _row(share: Any) -> dict[str, Any]:
    used = list(share.linears.values())
    return {
        "choice": share.name,
        "bits per weight": round(share.bits, 3),
        "kept": round(share.kept, 3),
        "predicted KL": float(f"{share.predicted:.4g}"),
        "measured KL": float(f"{share.measured:.4g}"),
        "linears": ", ".join(f"{used.count(name)} {name}" for name in dict.fromkeys(sorted(used))),
    }
