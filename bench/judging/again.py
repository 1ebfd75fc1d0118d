"""Measuring a suspected cell once more, in a process of its own, before it is called a regression."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.judging import sides
from bench.judging.sides import Side
from bench.judging.verdicts import Judgement
from bench.store import Record, Store
from methods.errors import UserError

SUSPECT = ("REGRESSION", "NEW_FAILURE")


def rerun(after: Side, judged: Judgement, room: Path, note: Callable[[str], None]) -> Side:
    """`after` with each suspected record measured again, where that is possible; the results folder stays as it is."""
    suspects = {r.key: r for row in judged.rows if row.verdict in SUSPECT for r in row.records}
    fresh: dict[str, tuple[Record, Side]] = {}
    for key, record in suspects.items():
        try:
            root = Path(tempfile.mkdtemp(prefix="again-", dir=room))
            found = measure(record, root)
            fresh[key] = (found, sides.read(root))
            note(f"measured again: {key[:12]}, {found.status}")
        except UserError as fault:
            note(f"could not be measured again: {key[:12]} ({fault})")
    records = tuple(fresh[r.key][0] if r.key in fresh else r for r in after.records)
    anew = {id(record): side for record, side in fresh.values()}

    def items(record: Record) -> sides.Items:
        return anew[id(record)].items(record) if id(record) in anew else after.items(record)

    return Side(after.name, records, items)


def measure(record: Record, root: Path) -> Record:
    """Run a record's cell into an empty results folder.

    Raises:
        UserError: today's code would make another cell of it.
    """
    import sys

    from bench import planning, runner, watch
    from bench.paths import using

    plan = planning.make(spec_of(record, root))
    cells = tuple(c for c in plan.cells if sides.slot(record) == _slot(c.slot))
    if not cells:
        raise UserError(f"record {record.key[:12]} is of a slot that this version does not make: run bench run")
    with using():
        summary = runner.execute(planning.Plan(plan.spec, cells, ()), Store(root), watch.on(sys.stderr))
    if len(summary.records) != 1:
        raise UserError(f"record {record.key[:12]} gave {len(summary.records)} records: run bench run")
    return summary.records[0]


def _slot(slot: dict[str, Any]) -> tuple[Any, ...]:
    return sides.slot(Record(key="", slot=slot, status="ok"))


def spec_of(record: Record, root: Path) -> Any:
    """The run that makes a record.

    Raises:
        UserError: it cannot be read back.
    """
    from bench import spec

    return spec.make(settings(record) | {"results": root})


def settings(record: Record) -> dict[str, Any]:
    """A spec's values, read back from a record's slot and from what decided its number.

    Raises:
        UserError: they cannot be read back.
    """
    slot, decided = record.slot, record.determinants
    try:
        values: dict[str, Any] = {
            "methods": (slot["method"].rpartition(" + ")[2],),
            "models": (slot["model"],),
            "patterns": (slot["pattern"],) if slot["pattern"] != "dense" else ("2:4",),
            "measures": (slot["measure"],),
            "dtype": slot["dtype"],
            "device": slot["device"],
            "threads": decided["threads"],
            "targets": dict(zip(("include", "exclude"), slot["targets"], strict=True)),
        }
        if slot.get("seed") is not None:
            values["seeds"] = (slot["seed"],)
        if draw := decided.get("calibration"):
            values["calibration"] = {k: draw[k] for k in ("data", "sequences", "seqlen")}
        if course := decided.get("training"):
            kept = {k: course[k] for k in ("data", "tokens", "batch", "seqlen", "micro")}
            values["training"] = kept | {"processes": decided.get("processes", 1)}
        values |= _measured(slot["measure"], dict(decided["measure"]["config"]))
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise UserError(f"record {record.key[:12]} does not say how it was made ({fault}): run bench run") from None
    values["quantizers"] = (slot.get("quantizer", "none"),)
    return values


def _measured(measure: str, config: dict[str, Any]) -> dict[str, Any]:
    """A measure's fields as settings of a run."""
    if measure in ("perplexity", "agreement"):
        return {"perplexity": {("data" if k == "corpus" else k): v for k, v in config.items()}}
    if measure == "zeroshot":
        return {"tasks": (config["task"],), "zeroshot": {k: config[k] for k in ("batch", "limit") if k in config}}
    return {}
