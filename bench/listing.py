"""Lists for `bench ls`, and the way any list of rows is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import catalog, costs, data, models, recipes, tasks
from methods.errors import UserError

Rows = Sequence[dict[str, Any]]
KINDS = ("methods", "models", "data", "tasks", "measures", "quantizers", "recipes", "runs")


def show(rows: Rows, as_json: bool) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        import json

        print(json.dumps(list(rows), indent=1))
        return
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for i, name in enumerate(rows[0] if rows else ("nothing here",)):
        table.add_column(name.replace("_", " "), overflow="fold", no_wrap=i == 0)
        table.columns[i].justify = "right" if _numeric(rows, name) else "left"
    for row in rows:
        table.add_row(*(Text(_text(v)) for v in row.values()))
    (Console() if sys.stdout.isatty() else Console(width=200)).print(table)


def _numeric(rows: Rows, name: str) -> bool:
    return bool(rows) and all(isinstance(r.get(name), int | float | None) for r in rows)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def rows(what: str, long: bool, results: Path | None) -> Rows:
    """
    Raises:
        UserError: there is no such list.
    """
    if what in ("methods", "measures", "quantizers"):
        return [_entry(what, name, entry, long) for name, entry in catalog.entries(what).items()]
    if what == "models":
        return [
            {"model": n, "source": a.source, "ref": a.ref, "evaluated_on": f"{a.data}@{a.seqlen}", "about": a.about}
            for n, a in models.ALIASES.items()
        ]
    if what == "data":
        return [{"corpus": n, "hub_id": c.hub, "about": c.about} for n, c in data.CORPORA.items()]
    if what == "tasks":
        return [_task(name, file) for name, file in tasks.expand((*tasks.OWN, *tasks.KNOWN)).items()]
    if what == "recipes":
        return [
            {
                "recipe": n,
                "up_to_parameters": f"{r.parameters:.3g}",
                "tokens": r.tokens,
                "step": f"{r.batch} x {r.seqlen}",
            }
            | {"device": r.device or "any", "about": r.about, "source": r.source}
            for n, r in recipes.recipes().items()
        ]
    if what == "runs":
        return _runs(results)
    raise UserError(catalog.unknown("list", what, KINDS))


def _entry(what: str, name: str, entry: catalog.Entry, long: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "about": f"broken: {entry.broken}" if entry.broken else entry.about,
        "needs": " ".join(entry.needs),
    }
    row |= {"paper": entry.paper, "year": str(entry.year or ""), "presets": " ".join(entry.presets)}
    if long and what == "methods":
        row |= {"trains": "yes" if entry.trains else "no", "estimated_on_llama2_7b": costs.told(entry)}
        row["installed_by"] = _installed_by(entry)
    if long:
        kind = catalog.load(entry) if entry.target and not entry.broken else None
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        row["fields"] = " ".join(
            f.name if f.default is dataclasses.MISSING else f"{f.name}={f.default}" for f in fields
        )
    return row


def _installed_by(entry: catalog.Entry) -> str:
    """What brings the library of a method that needs one, else nothing."""
    if entry.environment:
        return f"bench env create {entry.environment}"
    return f"pip install 'cast-bench[{entry.extra}]'" if entry.extra else ""


def _task(name: str, file: str) -> dict[str, Any]:
    task = tasks.describe(name, file)
    sets = " ".join(s for s, members in tasks.SETS.items() if name in members)
    return {"task": name, "version": task.version, "hub_id": task.hub, "sets": sets}


def _runs(results: Path | None) -> Rows:
    from bench.spec import RESULTS
    from bench.store import Store

    out = []
    for record in Store(results or RESULTS, write=False):
        slot = record.slot
        out.append(
            {
                "record": record.key[:12],
                "model": slot.get("model"),
                "method": slot.get("method"),
                "pattern": slot.get("pattern"),
                "quantizer": slot.get("quantizer"),
                "seed": str(slot.get("seed")) if slot.get("seed") is not None else "",
                "measure": slot.get("measure"),
                "protocol": slot.get("protocol"),
                "status": record.status,
                "recorded": record.provenance.get("recorded", ""),
            }
        )
    return out
