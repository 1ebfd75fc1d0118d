"""The table of languages: what rows lose of one text in several languages."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from long_tables import row_of
from page_records import DASH, compare, markdown, mean, origin_note, read

from bench.comparing.pairing import Seeds
from bench.comparing.result_set import ResultSet
from bench.results.record import Record
from bench.system.grouping import group_by
from bench.system.text import escape_markdown

PREFIX, ENGLISH = "languages-", "en"
BITS, TOKENS = "text_bits_per_byte", "tokens_per_byte"
CAPTION = (
    "Dense: bits per byte, and in brackets tokens per byte. Other columns: the rise of the bits in "
    "percent with its 95% interval, then the mean KL to the dense model in nats per token."
)


class Loss(NamedTuple):
    """The rise of the bits in percent with its interval, and the mean KL in nats per token."""

    rise: float
    low: float
    high: float
    kl: float

    def __str__(self) -> str:
        # Adding 0.0 makes 0.0 of -0.0.
        rise, low, high = (round(x, 1) + 0.0 for x in (self.rise, self.low, self.high))
        ends = f" ({low} to {high})" if math.isfinite(low) else ""
        return f"{rise}{ends}, {self.kl:.3f}"


def languages(folder: str) -> str:
    """Return for each model a line per language and a column per row, the smallest loss first."""
    results = read(folder)
    records = [record for record in results.records if record.status == "ok"]
    parts = []
    for model, of_model in group_by(records, lambda record: record.identity.model).items():
        parts.append(f"{escape_markdown(model)}:\n\n{_of_model(of_model, results)}")
    return "\n".join([*parts, f"{CAPTION}\n", origin_note(records).lstrip("\n")])


def _of_model(records: Sequence[Record], results: ResultSet) -> str:
    rows = group_by((one for one in records if _language(one)), row_of)
    dense = _by_language(rows.pop("dense"))
    losses: dict[str, dict[str, Loss]] = {}
    for name, own in rows.items():
        losses[name] = {}
        for language, measured in _by_language(own).items():
            losses[name][language] = _loss(dense[language], measured, results)
    order = sorted(losses, key=lambda name: sum(loss.rise for loss in losses[name].values()))
    lines = []
    for language, measured in dense.items():
        bits, tokens = (_mean(measured["text_bits"], metric) for metric in (BITS, TOKENS))
        cells = [str(losses[name].get(language, DASH)) for name in order]
        lines.append([language, f"{bits:.2f} ({tokens:.2f})", *cells])
    headers = ["", ">dense", *(f">{escape_markdown(name)}" for name in order)]
    return f"{markdown(headers, lines)}\n{_beyond_english(losses)}"


def _beyond_english(losses: Mapping[str, Mapping[str, Loss]]) -> str:
    """Return which languages lose more than English, with intervals that do not overlap."""
    parts = []
    for name, own in losses.items():
        english = own.get(ENGLISH)
        if english:
            more = [language for language, loss in own.items() if loss.low > english.high]
            parts.append(f"{escape_markdown(name)} {', '.join(more) or 'none'}")
    return f"Loses more than English, and the intervals do not overlap: {'; '.join(parts)}.\n"


def _language(record: Record) -> str:
    """Return the code of the language of a record's text, "" if it has none."""
    text = record.identity.protocol.name
    return text.removeprefix(PREFIX) if text.startswith(PREFIX) else ""


def _by_language(records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """Return the records of a row by language and measure."""
    found = group_by(sorted(records, key=_language), _language)
    return {
        language: group_by(own, lambda record: record.identity.measure)
        for language, own in found.items()
    }


def _seeds(measured: Mapping[str, Sequence[Record]]) -> Seeds:
    return {record.identity.seed: record for record in measured["perplexity"]}


def _loss(
    dense: Mapping[str, Sequence[Record]],
    row: Mapping[str, Sequence[Record]],
    results: ResultSet,
) -> Loss:
    """Return the loss of a row in a language, each given as records by measure.

    A text has the same tokens in both rows, so bits rise as the logarithm of perplexity does.
    """
    before, after = _seeds(dense), _seeds(row)
    whole, kl = math.log(mean(before)), mean_kl(row["fidelity"], results)
    rise = 100 * (math.log(mean(after)) / whole - 1)
    ratio = compare(before, after, results)
    if ratio is None:
        return Loss(rise, -math.inf, math.inf, kl)
    low, high = (100 * math.log(end) / whole for end in (ratio.low, ratio.high))
    return Loss(rise, low, high, kl)


def mean_kl(records: Sequence[Record], results: ResultSet) -> float:
    """Return the mean KL of a row in nats per token, over windows and draws."""
    items = [results.items(record) for record in records]
    return statistics.fmean(float(one.columns["kl"].sum() / one.weights.sum()) for one in items)


def _mean(records: Sequence[Record], metric: str) -> float:
    """Return the mean of a metric over draws."""
    found = [reading for record in records for reading in record.readings]
    return statistics.fmean(one.value or 0.0 for one in found if one.metric == metric)


TABLES: dict[str, Callable[..., str]] = {"languages": languages}
"""Functions by the kind of a table in results/boards.toml."""
