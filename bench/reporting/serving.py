"""What an engine runs of a board: the export that it reads, the bytes of those files, and the line
that serves them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from bench.catalog import registry
from bench.reporting.facts import Facts
from bench.reporting.view import Table, TableRow, is_quantized
from bench.results import metrics
from bench.system.suggest import describe_unknown
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.inputs.model_facts import ModelFacts
    from bench.reporting.similar_models import MeasuredRow

K_BITS = {"q6_k": 6.5625, "q5_k": 5.5, "q4_k": 4.5}
"""Bits per weight of the types of llama.cpp."""
INTEGERS = r"int[48](-(rtn|gptq|awq|searched))?"
"""Quantizers of symmetric integers in groups."""


@dataclass(frozen=True)
class Form:
    """Files that an engine reads.

    quantizer: expression for names of quantizers; "" is a model without one. bits: of a weight in
    these files, None for those of the quantizer. keeps: True if the files keep the embedding's
    format, False if they hold it in the model's own.
    """

    export: str
    quantizer: str
    bits: float | None = None
    keeps: bool = False
    pattern: str = ""
    """The only pattern, or "" for any. Another pattern is stored dense, with its zeros."""
    packs: bool = False
    """True if the zeros of the pattern take no bytes."""
    floats: float = math.inf
    """Most bits of a weight that is not quantized."""


@dataclass(frozen=True)
class Engine:
    """An engine: the files that it reads, the first that fits, and how it is started."""

    forms: tuple[Form, ...]
    serve: str
    folder: str = "{}"
    """What --out of the export is, from the name of the model."""


VLLM_FORMS = (
    Form("awq", r"int4-awq", floats=16),
    Form("gptq", INTEGERS, floats=16),
    Form("compressed-tensors", r"fp8|w8a8|nvfp4|mxfp4|mxfp8|llmcompressor-.*|auto-round"),
    Form("hf", ""),
)
ENGINES = {
    "vllm": Engine(VLLM_FORMS, "vllm serve {}"),
    "llama.cpp": Engine(
        (
            Form("gguf", r"q[2-6]_k", keeps=True),
            Form("gguf", r"int8(-rtn)?", 8.5, keeps=True),
            Form("gguf", r"int4(-(rtn|gptq))?", 4.5, keeps=True),
            Form("gguf", "", 16.0),
        ),
        "llama-server -m {}",
        "{}.gguf",
    ),
    "transformers": Engine(VLLM_FORMS, "transformers serve {}"),
    "tensorrt": Engine(
        (Form("onnx", "", 16.0),),
        "trtexec --onnx={}/model.onnx --stronglyTyped --sparsity=enable",
    ),
    "native": Engine(
        (
            Form("packed24", "", keeps=True, pattern="2:4", packs=True),
            Form("stored", r".+", keeps=True, packs=True),
            Form("hf", ""),
        ),
        "",
    ),
}
"""Engines of `bench pick --engine`. `native` is this project: its files hold what a row counts."""


def ship(table: Table, engine: str) -> Table:
    """Return the table with the rows that an engine runs: their bytes, bits and export are those of
    its files. Other rows count as not compressed.

    Raise UserError for an unknown engine.
    """
    if engine not in ENGINES:
        raise UserError(describe_unknown("engine", engine, ENGINES))
    chosen = ENGINES[engine]
    shipper = _Shipper(table)
    rows = []
    for k, row in enumerate(table.rows):
        facts = row.facts
        if facts and facts.compressed:
            form = _form_of(chosen, row)
            shipped = shipper.facts(k, chosen, form) if form else None
            row = replace(row, facts=shipped or replace(facts, compressed=False))
        rows.append(row)
    return replace(table, rows=tuple(rows))


def _form_of(engine: Engine, row: TableRow) -> Form | None:
    """Return the first form that an installed export writes of a row, or None."""
    quantizer = row.filters["quantizer"].split(":")[0] if is_quantized(row.filters) else ""
    for form in engine.forms:
        fits = re.fullmatch(form.quantizer, quantizer) is not None
        if fits and form.pattern in ("", row.filters["pattern"]):
            return form if registry.is_installed("exports", form.export) else None
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
    chosen = ENGINES[engine or "native"]
    known = {row.quantizer.split(":")[0]: row.bits for row in measured if row.pattern == "dense"}
    sizes = {name: math.prod(shape) for name, shape in facts.shapes.items()}
    total = sum(sizes.values())
    item = 8 * facts.download_bytes / total
    targets = sum(sizes.get(f"{name}.weight", 0) for name in facts.linears)
    vocabulary = facts.config.get("vocab_size")
    # The embedding and the head.
    outer = sum(sizes[name] for name, shape in facts.shapes.items() if shape[0] == vocabulary)
    out = []
    for quantizer in ("none", "int8", "q6_k", "fp8", "q5_k", "int4-gptq", "q4_k"):
        name = "" if quantizer == "none" else quantizer
        form = next((f for f in chosen.forms if re.fullmatch(f.quantizer, name)), None)
        bits = form and (form.bits or K_BITS.get(name) or known.get(name) or (not name and item))
        if (
            not form
            or not bits
            or form.pattern
            or not registry.is_installed("exports", form.export)
        ):
            continue
        kept = outer * (8.0 if name and form.keeps else item) / 8
        size = targets * bits / 8 + kept + (total - targets - outer) * item / 8
        out.append(Size(quantizer, size / 1e6, float(bits), form.export))
    return sorted(out, key=lambda one: -one.megabytes)


class _Shipper:
    """Sizes of the files of a table's rows. The linears that methods change are its targets."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.columns = {column.metric: c for c, column in reversed([*enumerate(table.columns)])}
        self.dense: dict[str, int] = {}
        for k, row in enumerate(table.rows):
            if row.filters["method"] == "dense":
                self.dense.setdefault(row.filters["quantizer"] or "none", k)

    def _number(self, row: int, metric: str) -> float | None:
        return self.table.value(row, self.columns.get(metric))

    def facts(self, row: int, engine: Engine, form: Form) -> Facts | None:
        """Return a row's facts as shipped, or None if its size is not known."""
        facts = self.table.facts(row)
        size = self._bytes(row, form)
        parameters = self._number(row, "parameters")
        bits = self._bits(row, form)
        if size is None or bits is None:
            return None
        words = shlex.split(facts.make)
        name = words[-1] if facts.make.startswith("bench prune") else "model"
        out = engine.folder.format(f"{name}-{form.export}")
        export = ""
        if facts.make:
            parts = ["bench", "export", name, "--format", form.export, "--out", out]
            export = shlex.join(parts)
        return replace(
            facts,
            bytes=size,
            bits=bits,
            bits_per_parameter=8 * size / parameters if parameters else None,
            export=export,
            serve=engine.serve.format(shlex.quote(out)) if engine.serve else "",
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
        return None if dense is None else self._number(dense, "bits_per_weight")

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
