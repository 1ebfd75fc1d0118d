"""What an engine runs of a board: the export that it reads, the bytes of those files, and the line
that serves them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from bench.catalog import registry
from bench.formats.shipping import NATIVE, Form, Server
from bench.inputs import models
from bench.inputs.shapes import planned_model
from bench.reporting.facts import Facts
from bench.reporting.view import Table, TableRow, is_quantized
from bench.results import metrics
from bench.system.suggest import describe_unknown
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.inputs.model_facts import ModelFacts
    from bench.reporting.similar_models import MeasuredRow

FIRST_LOOK = ("none", "int8", "q6_k", "fp8", "q5_k", "int4-gptq", "q4_k")
"""Quantizers whose sizes are shown for a model without records."""


class Shipped(NamedTuple):
    """A server, the export whose files it runs, and rows that it runs from them."""

    server: Server
    export: str
    form: Form


def engines() -> dict[str, list[Shipped]]:
    """Return what each engine runs by its name. What needs a pattern comes first."""
    found: dict[str, list[Shipped]] = {}
    for export, entry in registry.entries("exports").items():
        if entry.broken:
            continue
        for form in getattr(registry.load(entry), "forms", ()):
            for server in form.servers:
                found.setdefault(server.name, []).append(Shipped(server, export, form))
    for shipped in found.values():
        shipped.sort(key=lambda one: not one.form.pattern)
    return found


def find_engine(name: str) -> list[Shipped]:
    """Return what an engine runs. Raise UserError for an unknown one."""
    known = engines()
    if name not in known:
        raise UserError(describe_unknown("engine", name, known))
    return known[name]


def ship(table: Table, engine: str) -> Table:
    """Return the table with the rows that an engine runs: their bytes, bits and export are those of
    its files. Other rows count as not compressed.

    Raise UserError for an unknown engine.
    """
    chosen = find_engine(engine)
    shipper = _Shipper(table)
    rows = []
    for k, row in enumerate(table.rows):
        facts = row.facts
        if facts and facts.compressed:
            how = _choose(chosen, row)
            shipped = shipper.facts(k, how) if how else None
            row = replace(row, facts=shipped or replace(facts, compressed=False))
        rows.append(row)
    return replace(table, rows=tuple(rows))


def _choose(shipped: Sequence[Shipped], row: TableRow) -> Shipped | None:
    """Return the first that fits a row, or None."""
    quantizer = row.filters["quantizer"].split(":")[0] if is_quantized(row.filters) else ""
    for one in shipped:
        fits = re.fullmatch(one.form.quantizer, quantizer) is not None
        if fits and one.form.pattern in ("", row.filters["pattern"]):
            return one
    return None


class Size(NamedTuple):
    """Size of the files of a quantized model, from shapes alone."""

    quantizer: str
    megabytes: float
    bits: float
    export: str


def suggest(facts: ModelFacts, engine: str, measured: Sequence[MeasuredRow]) -> list[Size]:
    """Return the sizes of a model's files for an engine by quantizer, the largest first.

    measured: rows of another model, whose bits per weight the quantizers without fixed bits take.
    """
    every = engines()
    chosen = [one for one in every.get(engine or NATIVE.name, []) if not one.form.pattern]
    usual: dict[str, float] = {}
    for shipped in every.values():
        for one in shipped:
            usual |= one.form.usual
    known = {row.quantizer.split(":")[0]: row.bits for row in measured if row.pattern == "dense"}
    sizes = {name: math.prod(shape) for name, shape in facts.shapes.items()}
    total = sum(sizes.values())
    item = 8 * facts.download_bytes / total
    vocabulary = facts.config.get("vocab_size")
    # The embedding and the head.
    outer = sum(sizes[name] for name, shape in facts.shapes.items() if shape[0] == vocabulary)
    out = []
    linears = _shapes_of(facts)
    targets = sum(map(math.prod, linears))
    for quantizer in FIRST_LOOK:
        name = "" if quantizer == "none" else quantizer
        how = next((one for one in chosen if re.fullmatch(one.form.quantizer, name)), None)
        if how is None:
            continue
        form = how.form
        bits = form.bits or usual.get(name) or known.get(name) or (item if not name else None)
        if not bits:
            continue
        if form.added and targets:
            bits += 8 * form.added(name, linears) / targets
        kept = outer * (8.0 if name and form.keeps else item) / 8
        size = targets * bits / 8 + kept + (total - targets - outer) * item / 8
        out.append(Size(quantizer, size / 1e6, float(bits), how.export))
    return sorted(out, key=lambda one: -one.megabytes)


def _linears_of(model: str) -> list[tuple[int, ...]]:
    """Return the shapes of a model's linears. Empty if they are not known on this machine."""
    try:
        facts = planned_model(model) or models.resolve(model)
        return _shapes_of(facts) if facts else []
    except UserError:
        return []


def _shapes_of(facts: ModelFacts) -> list[tuple[int, ...]]:
    """Return the shapes of the linears. Those that a checkpoint fuses are left out."""
    names = [f"{name}.weight" for name in facts.linears]
    return [facts.shapes[name] for name in names if name in facts.shapes]


class _Shipper:
    """Sizes of the files of a table's rows. The linears that methods change are its targets."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.linears = _linears_of(table.title)
        self.columns = {column.metric: c for c, column in reversed([*enumerate(table.columns)])}
        self.dense: dict[str, int] = {}
        for k, row in enumerate(table.rows):
            if row.filters["method"] == "dense":
                self.dense.setdefault(row.filters["quantizer"] or "none", k)

    def _number(self, row: int, metric: str) -> float | None:
        return self.table.value(row, self.columns.get(metric))

    def facts(self, row: int, how: Shipped) -> Facts | None:
        """Return a row's facts as shipped, or None if its size is not known."""
        facts = self.table.facts(row)
        server, form = how.server, how.form
        size = self._bytes(row, form)
        parameters = self._number(row, "parameters")
        bits = self._bits(row, form)
        if size is None or bits is None:
            return None
        words = shlex.split(facts.make)
        name = words[-1] if facts.make.startswith("bench prune") else "model"
        out = server.out.format(f"{name}-{how.export}")
        export = ""
        if facts.make:
            parts = ["bench", "export", name, "--format", how.export, "--out", out]
            export = shlex.join(parts)
        return replace(
            facts,
            bytes=size,
            bits=bits,
            bits_per_parameter=8 * size / parameters if parameters else None,
            export=export,
            serve=server.command.format(shlex.quote(out)),
        )

    def _bits(self, row: int, form: Form) -> float | None:
        """Return the bits of a weight of the targets in the files."""
        own = self._number(row, "bits_per_weight")
        if form.bits:
            return form.bits
        if form.packs:
            return own
        if not is_quantized(self.table.rows[row].filters):
            return self._item_bits(row)
        dense = self.dense.get(self.table.rows[row].filters["quantizer"])
        bits = None if dense is None else self._number(dense, "bits_per_weight")
        if bits is None or form.added is None or not self.linears:
            return bits
        added = form.added(self.table.rows[row].filters["quantizer"], self.linears)
        return bits + 8 * added / sum(map(math.prod, self.linears))

    def _item_bits(self, row: int) -> float | None:
        size, parameters = self._number(row, "bytes"), self._number(row, "parameters")
        return 8 * size / parameters if size and parameters else None

    def _bytes(self, row: int, form: Form) -> float | None:
        """Return the bytes of the weights in the files."""
        packed = self._number(row, metrics.SIZE)
        if form.packs:
            return packed
        dense, item, bits = self._number(row, "bytes"), self._item_bits(row), self._bits(row, form)
        if dense is None or item is None or bits is None:
            return None
        if not is_quantized(self.table.rows[row].filters):
            return dense * min(1.0, bits / item)
        targets = self._targets()
        if targets is None:
            return None
        others = (8 * dense / item - targets) * min(item, form.floats) / 8
        size = targets * bits / 8 + others
        if form.keeps:
            size -= self._saved_by_embedding(row, item)
        return size

    def _saved_by_embedding(self, row: int, item: float) -> float:
        parameters = self._number(row, "embedding_parameters") or 0.0
        return parameters * item / 8 - (self._number(row, "embedding_bytes") or 0.0)

    def _targets(self) -> float | None:
        """Return the number of weights of the targets, from a quantized dense row."""
        for k in self.dense.values():
            dense, packed = self._number(k, "bytes"), self._number(k, metrics.SIZE)
            item, bits = self._item_bits(k), self._number(k, "bits_per_weight")
            if None in (dense, packed, item, bits) or not is_quantized(self.table.rows[k].filters):
                continue
            assert dense and packed and item and bits
            if item - bits > 1:
                saved = dense - packed - self._saved_by_embedding(k, item)
                return 8 * saved / (item - bits)
        return None
