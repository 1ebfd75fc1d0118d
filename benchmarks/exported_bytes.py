"""Bytes of the tensors of exported files beside those that the row counts.

python benchmarks/exported_bytes.py [--model NAME]

Methods and quantizers need no calibration text. No engine is needed: sizes are read from headers.
"""

from __future__ import annotations

import json
from pathlib import Path

from gguf import GGUFReader
from harness import MODEL, Figures, call, finish, like_a_worker, open_model, say, start

from bench.catalog import registry
from bench.results.metrics import SIZE
from bench.results.record import Record
from bench.results.rows import newest
from bench.results.store import ReadOnlyStore
from bench.system.cache import temporary_folder
from methods.model.header import read_header

FILES = (
    ("dense", "none", "hf"),
    ("dense", "int8:embed=int8", "stored"),
    ("dense", "int4-rtn:embed=int8", "stored"),
    ("magnitude", "none", "packed24"),
    ("magnitude", "int8:embed=int8", "packed24"),
    ("dense", "int4-rtn:group=32:embed=q6_k", "gguf"),
    ("dense", "int8", "compressed-tensors"),
    ("dense", "int4-rtn", "compressed-tensors"),
    ("dense", "int4-rtn", "gptq"),
    ("dense", "int4-rtn", "awq"),
)
"""Method, quantizer and format. The last four formats do not quantize the embedding."""


def tensor_bytes(folder: Path) -> int:
    """Return the bytes of all tensors in a folder's files, without headers and vocabularies."""
    total = 0
    for file in folder.glob("*.gguf"):
        total += sum(int(tensor.n_bytes) for tensor in GGUFReader(file).tensors)
    for file in folder.rglob("*.safetensors"):
        tensors = read_header(file.parent, file.name).values()
        total += file.stat().st_size - min(tensor.begin for tensor in tensors)
    return total


def row_of(results: Path, method: str, quantizer: str) -> Record:
    """Return the record of a row's size."""
    (found,) = (
        record
        for record in newest(ReadOnlyStore(results))
        if record.identity.measure == "size"
        and (record.identity.method, record.identity.quantizer) == (method, quantizer)
    )
    return found


def added_bytes(format_: str, quantizer: str, shapes: list[tuple[int, ...]]) -> float:
    """Return the bytes that `bench pick --engine` adds to those of a row."""
    for form in registry.load(registry.lookup("exports", format_)).forms:
        if form.added:
            return float(form.added(quantizer, shapes))
    return 0.0


def main(model: str = MODEL) -> None:
    like_a_worker()
    _, folder, targets = open_model(model)
    shapes = [folder.shapes()[f"{target}.weight"] for target in targets]
    figures: Figures = {}
    with temporary_folder("exported-bytes") as room:
        results = room / "records"
        for method in ("dense", "magnitude"):
            typed = []
            for name, quantizer, _ in FILES:
                if name == method and quantizer not in typed:
                    typed.append(quantizer if ":embed" in quantizer else f"{quantizer}:embed=none")
            call(
                "bench",
                "run --measures size --dtype bfloat16 --device cpu --set threads=1",
                "--model", model, "--methods", method, "--results", results,
                "--quant", ",".join(typed).replace("none:embed=none", "none"),
            )  # fmt: skip
        for method, quantizer, format_ in FILES:
            record = row_of(results, method, quantizer)
            out = room / format_ / method / quantizer
            call("bench", "export", record.key, "--format", format_, "--out", out,
                 "--results", results)  # fmt: skip
            (counted,) = (r.value for r in record.readings if r.metric == SIZE)
            size = tensor_bytes(out)
            name = " ".join(part for part in (format_, method, quantizer) if part != "none")
            row = float(counted or 0)
            shipped = row + added_bytes(format_, quantizer, shapes)
            figures[name] = {
                "row, MB": round(row / 1e6, 2),
                "bench pick --engine, MB": round(shipped / 1e6, 2),
                "files, MB": round(size / 1e6, 2),
            }
            say(name, json.dumps(figures[name]))
    finish("exported_bytes", figures)


if __name__ == "__main__":
    start(main)
