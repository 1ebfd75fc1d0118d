"""A whole model's decoding on the CPU: tokens a second on packed 2:4 weights against dense ones, as
`bench run` measures it.

python benchmarks/decode_model.py [--model NAME] [--prepare]

--prepare makes the artifacts only, which need not be done on a quiet machine. The ratio is over the
faster of torch and of the same kernel dense, in the same turn.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from harness import finish, start

from bench import api
from bench.planning.spec import Spec
from bench.results.record import Record

THREADS = (1, 2)


def run(model: str, threads: int, measure: str, results: Path) -> list[Record]:
    spec = {
        "models": (model,), "methods": ("magnitude",), "quantizers": ("none", "int8"),
        "measures": (measure,), "dtype": "bfloat16", "device": "cpu", "threads": threads,
        "results": results,
    }  # fmt: skip
    return api.execute(Spec(**spec)).records


def main(model: str = "smollm2-135m-instruct-q4", prepare: bool = False) -> None:
    figures: dict[str, Any] = {"model": model}
    with tempfile.TemporaryDirectory() as room:
        for threads in THREADS:
            label = f"{threads} {'thread' if threads == 1 else 'threads'}"
            found = run(model, threads, "size" if prepare else "speed", Path(room) / str(threads))
            for record in found:
                if record.status == "ok" and "speedup" in record.notes:
                    figures["sequences"], figures["tokens in the KV cache"] = (
                        1,
                        record.notes["kv_tokens"],
                    )
                    kind = "int8" if record.identity.quantizer == "int8" else "bf16"
                    figures[f"{kind}, {label}"] = rows(record)
    if not prepare:
        finish("decode_model", figures)


def rows(record: Record) -> dict[str, Any]:
    notes = record.notes
    seconds = {name: t["median"] for name, t in notes["seconds"].items()}
    low, high = notes["interval"]
    return {
        **{f"{name}, tokens/s": round(1 / s, 2) for name, s in seconds.items()},
        f"{notes['dense']} / 2:4": {"median": notes["speedup"], "min": low, "max": high},
        "torch dense / 2:4": round(seconds["dense"] / seconds["2:4"], 3),
        "limit": notes["limit"],
        "noise, a side against itself": f"{notes['noise']:.1%}",
    }


if __name__ == "__main__":
    start(main)
