"""A whole model's decoding on the CPU by `bench run`: packed 2:4 weights against dense ones.

python benchmarks/decode_model.py [--model NAME] [--prepare]

--prepare makes the artifacts only, which need not be done on a quiet machine. The ratio is over the
faster of torch and of the same kernel dense, in the same turn.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness import MODEL, Figures, finish, start

from bench import api
from bench.planning.spec import Spec
from bench.results.record import Record

THREADS = (1, 2)


def run(model: str, threads: int, measure: str, results: Path) -> list[Record]:
    """Measure magnitude's 2:4 model."""
    spec = {
        "models": (model,), "methods": ("magnitude",), "quantizers": ("none", "int8"),
        "measures": (measure,), "dtype": "bfloat16", "device": "cpu", "threads": threads,
        "results": results,
    }  # fmt: skip
    return api.execute(Spec(**spec)).records


def main(model: str = MODEL, prepare: bool = False) -> None:
    figures: Figures = {"model": model}
    with tempfile.TemporaryDirectory() as room:
        for threads in THREADS:
            label = f"{threads} {'thread' if threads == 1 else 'threads'}"
            found = run(model, threads, "size" if prepare else "speed", Path(room) / str(threads))
            for record in found:
                if record.status == "ok" and "speedup" in record.notes:
                    figures["sequences"] = 1
                    figures["tokens in the KV cache"] = record.notes["kv_tokens"]
                    kind = "int8" if record.identity.quantizer != "none" else "bf16"
                    figures[f"{kind}, {label}"] = rows(record.notes)
    if not prepare:
        finish("decode_model", figures)


def rows(notes: Figures) -> Figures:
    """Return the figures of a timing."""
    seconds = {name: t["median"] for name, t in notes["seconds"].items()}
    low, high = notes["interval"]
    figures: Figures = {f"{name}, tokens/s": round(1 / s, 2) for name, s in seconds.items()}
    figures[f"{notes['dense']} / 2:4"] = {"median": notes["speedup"], "min": low, "max": high}
    figures["torch dense / 2:4"] = round(seconds["dense"] / seconds["2:4"], 3)
    figures["limit"] = notes["limit"]
    return figures | {"noise, a side against itself": f"{notes['noise']:.1%}"}


if __name__ == "__main__":
    start(main)
