"""Write bench/assets/measured.csv: the best untrained row of each pattern and quantizer, of the
models of results/ that `bench pick` names for a model without records. Rows that the file of their
model flatters say nothing of others.

python scripts/measured_rows.py
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import declared
from page_records import is_flattered, read

from bench.catalog.choice import as_typed
from bench.inputs.shapes import known_shapes
from bench.reporting import board
from bench.reporting.similar_models import FIELDS, FILE

FOLDERS = [f"results/{name}" for name in declared.folders(used_in="measured_rows.py")]


def make() -> str:
    """Return the text of the file."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for folder in FOLDERS:
        results = read(folder)
        models = dict.fromkeys(record.identity.model for record in results.records)
        for model in models:
            own = results.only(model, [r for r in results.records if r.identity.model == model])
            one = next(board.boards_of(model, own), None)
            if one:
                writer.writerows(_rows(model, one))
    return out.getvalue()


def _rows(model: str, one: board.Board) -> list[dict[str, object]]:
    table = one.make_table(paired=lambda column: False, seeds=False)
    best: dict[tuple[str, str], dict[str, object]] = {}
    readings = [reading for record in one.records.values() for reading in record.readings]
    parameters = max((x.value or 0.0 for x in readings if x.metric == "parameters"), default=0.0)
    for row in table.rows:
        facts = row.facts
        trained = any(
            one.records[name].identity.training
            for cell in row.cells if cell for name in cell.records if name in one.records
        )  # fmt: skip
        if not facts or not facts.compressed or facts.broken or trained or not facts.loss:
            continue
        if row.filters["quantizer"].endswith(" file") or facts.bits is None:
            continue
        quantizer = as_typed(row.filters["quantizer"])
        if is_flattered(model, quantizer):
            continue
        value, low, high = facts.loss.parts
        made = {
            "model": model,
            "family": known_shapes().get(model, {}).get("model_type", ""),
            "parameters": int(parameters),
            "protocol": table.protocol,
            "method": row.filters["method"],
            "pattern": row.filters["pattern"],
            "quantizer": quantizer,
            "loss": f"{value:.4f}",
            "low": "" if low is None else f"{low:.4f}",
            "high": "" if high is None else f"{high:.4f}",
            "bits": f"{facts.bits:.4g}",
        }
        key = (row.filters["pattern"], quantizer.split(":")[0].split("-")[0])
        if key not in best or value < float(str(best[key]["loss"])):
            best[key] = made
    return sorted(best.values(), key=lambda made: float(str(made["loss"])))


if __name__ == "__main__":
    Path(FILE).write_text(make(), encoding="utf-8")
