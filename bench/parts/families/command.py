"""`bench families`: list known model families, or teach another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.console import print_line, print_rows
from bench.cli.flags import Json

families_app = typer.Typer(
    help="List the model families that can be pruned, or teach one.", rich_markup_mode=None
)


@families_app.callback(invoke_without_command=True)
def families(context: typer.Context, json: Json = False) -> None:
    """List the model families that can be pruned, or teach one."""
    if context.invoked_subcommand:
        return
    from methods.model.families import FAMILIES

    rows = []
    for kind, family in FAMILIES.items():
        experts: list[str] = []
        if family.experts:
            experts = [f"{family.experts.path}.*.{name}" for name in family.experts.linears]
        row = {
            "family": kind,
            "blocks": family.blocks,
            "linears": ", ".join(family.linears),
            "experts": ", ".join(experts),
            "fused": ", ".join(sorted({name.rsplit(".", 1)[0] for name in family.fused})),
            "logits": ", ".join(f"{step} {value}" for step, value in family.logits.items()),
        }
        rows.append(row)
    print_rows(rows, json)


@families_app.command("teach")
def families_teach(
    folder: Annotated[
        Path, typer.Argument(help="A model folder of an architecture that transformers knows.")
    ],
) -> None:
    """Print and test the families.toml entry of an architecture.

    It builds the architecture of the folder in several sizes to find its shapes. A walk that prunes
    nothing must reproduce the model's forward pass, bit for bit. Comments at the end name what it
    left out of the entry, and why.
    """
    from bench.parts.families.teach import teach, to_toml

    for line in to_toml(teach(folder)).splitlines():
        print_line(line)
