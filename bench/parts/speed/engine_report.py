"""Whole models timed in several engines: rows, ratios of models that were timed in turn, and a
figure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.reporting.drawing import SERIES, new_figure, save_figure
from bench.results.derive import Items
from bench.results.record import Record
from bench.stats import bootstrap
from bench.system.text import amount, printable
from methods.contract.errors import UserError

UNSTEADY = 0.1
"""Difference of a timing from its repetition in the same blocks above which a table warns."""
BUSY = 1.0
"""Number of other running processes above which a table warns."""
PREFERRED = (("native", "int8"), ("native", "bf16"))
"""Engines and kinds whose 2:4 side the others are compared with. The first that was timed is
used."""

NUMBERS = {
    "tokens_per_s": "tokens/s", "mb_per_token": "MB per token", "of_limit": "of the measured limit",
    "perplexity": "perplexity",
}  # fmt: skip
"""Columns of `rows`, with their words in `figures`."""


class TimedModel(NamedTuple):
    """One side of a record. blocks: tokens per second, by block of the turn; noise: its spread
    against itself."""

    record: Record
    side: str
    blocks: tuple[float, ...]
    noise: float

    @property
    def name(self) -> str:
        identity = self.record.identity
        parts = [identity.protocol.engine, identity.dtype]
        if self.record.notes.get("beside", identity.model) != identity.model:
            parts.append(identity.model)
        if self.side != "dense":
            parts.append(self.side)
        return " ".join(filter(None, parts))

    @property
    def model(self) -> str:
        """Return the model whose 2:4 side the others of the turn are compared with."""
        name: str = self.record.notes.get("beside", self.record.identity.model)
        return name

    @property
    def rate(self) -> float:
        """Return the median of tokens per second."""
        return float(np.median(self.blocks))

    def noted(self, name: str) -> float:
        """Return a number that the record's notes have for this side, or 0 if they have none."""
        value: float = self.record.notes.get(name, {}).get(self.side, 0)
        return value

    @property
    def share_of_limit(self) -> float | None:
        """Return the share of the measured bandwidth that decoding reaches, or of the measured peak
        of products that a prompt does.

        The operations are those of the dense linears. None if the limit was not measured.
        """
        notes, read = self.record.notes, self.noted("bytes_per_token")
        if read and notes.get("bandwidth"):
            return self.rate * read / float(notes["bandwidth"])
        if notes.get("peak_flops"):
            return (
                self.rate
                / float(notes["prompt_tokens"])
                * float(notes["flops"])
                / float(notes["peak_flops"])
            )
        return None

    @property
    def step(self) -> str:
        notes = self.record.notes
        if self.record.identity.protocol.name == "decode":
            return f"decode after {notes['kv_tokens']} tokens"
        return f"prompt of {notes['prompt_tokens']} tokens"

    @property
    def turn(self) -> tuple[Any, ...]:
        """Return what the models that were timed together share."""
        notes = self.record.notes
        return (self.model, self.step, _threads(self.record), *notes["in_turn"])


def ratio(fast: TimedModel, slow: TimedModel) -> bootstrap.BlockRatio:
    """Divide tokens per second of `fast` by those of `slow`, block by block, with Student's
    interval of the mean log ratio."""
    return bootstrap.ratio_of_blocks(np.array(fast.blocks), np.array(slow.blocks))


def entries(records: Iterable[Record], items: Callable[[Record], Items]) -> list[TimedModel]:
    """Return the sides of records of `bench speed --engine`. items: reads the blocks of a record,
    as `Store.items`.

    Of a model that was timed again in such a turn, only the newest timing is returned.
    """
    out = []
    for record in sorted(records, key=lambda record: record.recorded):
        if not record.is_engine_timing:
            continue
        table, noise = items(record), record.notes["noise"]
        if "2:4" in noise:
            sides = {"2:4": "value", "dense": "tokens_per_s_dense"}
        else:
            sides = {"dense": "value"}
        out += [
            TimedModel(record, side, tuple(map(float, table.columns[c])), noise[side])
            for side, c in sides.items()
        ]
    return list({(entry.turn, entry.name): entry for entry in out}.values())


def rows(found: Sequence[TimedModel]) -> list[dict[str, Any]]:
    """Return a row for each model, as `bench speed --engine` shows it, with its ratio to the 2:4
    model of its turn."""
    out = []
    for entry in found:
        best = _preferred(found, entry)
        row = {
            "engine": entry.name,
            "step": entry.step,
            "threads": entry.record.notes["threads"],
            "tokens_per_s": float(f"{entry.rate:.4g}"),
            "mb_per_token": "",
            "of_limit": "",
            "perplexity": "",
            "noise": f"{entry.noise:.1%}",
            "ratio_of": "",
            "ratio": "",
        }
        read, perplexity = entry.noted("bytes_per_token"), entry.noted("perplexity")
        if read:
            row["mb_per_token"] = round(read / 1e6, 1)
        if entry.share_of_limit:
            row["of_limit"] = f"{entry.share_of_limit:.0%}"
        if perplexity:
            row["perplexity"] = float(f"{perplexity:.4g}")
        if entry.noise > UNSTEADY:
            row["noise"] += ", not steady"
        if best and best is not entry:
            beside = ratio(best, entry)
            row["ratio_of"] = f"{best.name} / {entry.name}"
            row["ratio"] = f"{beside.value:.2f} ({beside.low:.2f} to {beside.high:.2f})"
        out.append(row)
    return out


def _threads(record: Record) -> str:
    count = record.notes["threads"]
    path = re.search(r"kernel path \w+", record.key_inputs.get("hardware", ""))
    threads = amount(count, "thread")
    return f"{threads}, {path[0]}" if path else threads


def _preferred(found: Iterable[TimedModel], entry: TimedModel) -> TimedModel | None:
    """Return the 2:4 side of the same turn that a model is compared with."""
    sparse = {
        (e.record.identity.protocol.engine, e.record.identity.dtype): e
        for e in found
        if e.side == "2:4" and e.turn == entry.turn
    }
    return next(
        (sparse[key] for key in PREFERRED if key in sparse), next(iter(sparse.values()), None)
    )


def figures(found: Sequence[TimedModel]) -> dict[str, Any]:
    """Return tokens per second of each model, ratios and noise by step, for scripts/readme.py."""
    out: dict[str, Any] = {}
    for entry, row in zip(found, rows(found), strict=True):
        mine = out.setdefault(f"{entry.step}, {_threads(entry.record)}", {})
        mine |= {
            f"{entry.name}, {words}": row[column]
            for column, words in NUMBERS.items()
            if row[column] != ""
        }
    for entry in found:
        mine = out[f"{entry.step}, {_threads(entry.record)}"]
        best = _preferred(found, entry)
        if best and best is not entry:
            mine[f"{best.name} / {entry.name}"] = _rounded(ratio(best, entry))
        if entry.side == "2:4" and best is not entry:
            dense = next(e for e in found if e.record is entry.record and e.side == "dense")
            mine[f"{entry.name} / dense"] = _rounded(ratio(entry, dense))
        mine[f"noise, {entry.name} against itself"] = f"{entry.noise:.1%}"
        if entry.noise > UNSTEADY:
            mine[f"warning, {entry.name}"] = "not steady: time it again on a quiet machine"
        busy = entry.record.notes.get("load", 0) - entry.record.notes["threads"]
        if busy > BUSY:
            mine["warning"] = f"about {busy:.1f} other processes ran"
    return out


def _rounded(of: bootstrap.BlockRatio) -> dict[str, float]:
    return {"median": round(of.value, 3), "min": round(of.low, 3), "max": round(of.high, 3)}


def draw(found: Sequence[TimedModel], file: Path) -> Path:
    """Draw tokens per second, a panel for each step. A whisker is the spread of the blocks."""
    if not found:
        raise UserError("nothing to draw: no engine was timed")
    steps = list(dict.fromkeys(entry.step for entry in found))
    height = 70 + 20 * max(Counter(entry.step for entry in found).values())
    figure, axes = new_figure(400 * len(steps), height, columns=len(steps))
    for step, axis in zip(steps, axes[0], strict=True):
        shown = [entry for entry in found if entry.step == step][::-1]
        middle = [entry.rate for entry in shown]
        spread = [
            [m - min(e.blocks), max(e.blocks) - m] for m, e in zip(middle, shown, strict=True)
        ]
        colors = [SERIES[1] if entry.side == "2:4" else SERIES[0] for entry in shown]
        axis.barh(
            [printable(entry.name) for entry in shown],
            middle,
            xerr=np.array(spread).T,
            color=colors,
            height=0.6,
        )
        axis.set(title=step, xlabel="tokens per second")
        axis.grid(visible=False, axis="y")
    title = (
        f"{found[0].record.identity.model} · {found[0].record.identity.device}, "
        f"{_threads(found[0].record)}"
    )
    figure.suptitle(title, x=0.01, ha="left")
    return save_figure(figure, file, title)
