"""What `llama-perplexity --kl-divergence` prints: KL to a base model on a text, without scores of
single tokens.

github.com/ggml-org/llama.cpp, tools/perplexity/perplexity.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from bench.parts.harnesses.evaluation import Evaluation, Harness, Total, time_of
from methods.contract.errors import UserError

TITLE = "llama-perplexity"
MARK = "====== KL divergence statistics ======"
SUFFIXES = (".log", ".txt", ".out")
MAX_BYTES = 2**24
"""Largest size of a log. One of 10,000 chunks has a tenth of it."""

_NUMBER = r"(-?[0-9.]+)(?: *(?:±|\+/-) *([0-9.]+))?"
LINES = {
    "mean_kld": (r"Mean +KLD", "nats/token", "lower", 1.0),
    "median_kld": (r"Median +KLD", "nats", "lower", 1.0),
    "p90_kld": (r"90\.0% +KLD", "nats", "lower", 1.0),
    "p99_kld": (r"99\.0% +KLD", "nats", "lower", 1.0),
    "p999_kld": (r"99\.9% +KLD", "nats", "lower", 1.0),
    "maximum_kld": (r"Maximum +KLD", "nats", "lower", 1.0),
    "same_top_p": (r"Same top p", "1", "higher", 0.01),
    "mean_ppl": (r"Mean +PPL\(Q\)", "1", "lower", 1.0),
}
"""Beginning of the line of each metric, its unit, its direction, and the factor to that unit.

The names are those of llama.cpp: a record with one of ours has scores from which it follows.
"""


class LlamaPerplexity(Harness):
    """Logs of `llama-perplexity --kl-divergence`. The task is the name of the file."""

    title: ClassVar[str] = TITLE
    how: ClassVar[str] = "llama-perplexity --kl-divergence > TEXT.log"

    def find(self, folder: Path) -> list[Path]:
        files = [folder] if folder.is_file() else folder.rglob("*")
        return [file for file in files if file.suffix in SUFFIXES and _is_log(file)]

    def read(self, file: Path) -> Iterator[Evaluation]:
        text = file.read_text(encoding="utf-8", errors="replace")
        totals = {}
        for metric, (begin, unit, better, factor) in LINES.items():
            found = re.search(rf"^{begin} *: *{_NUMBER}", text, re.MULTILINE)
            if found:
                value = factor * float(found[1])
                # Rounding makes the smallest divergences negative.
                value = max(0.0, value) if metric.endswith("kld") else value
                stderr = factor * float(found[2]) if found[2] else None
                totals[metric] = Total(value, unit, better, stderr)
        if "mean_kld" not in totals or not all(math.isfinite(one.value) for one in totals.values()):
            raise UserError(
                f"{file} has no mean KLD: let llama-perplexity finish, and keep its log"
            )
        said = re.search(r"over ([0-9]+) chunks, n_ctx=([0-9]+)", text)
        settings = {"chunks": said and int(said[1]), "n_ctx": said and int(said[2])}
        yield Evaluation(file.stem, "1", settings, harness=TITLE, made=time_of(file), totals=totals)


def _is_log(file: Path) -> bool:
    if not file.is_file() or file.stat().st_size > MAX_BYTES:
        return False
    return MARK.encode() in file.read_bytes()
