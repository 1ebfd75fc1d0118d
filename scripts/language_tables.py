"""The table of languages: what rows lose of one text in eight languages."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from long_tables import row_of
from page_records import DASH, compare, markdown, mean, origin_note, read

from bench.comparing.pairing import Seeds
from bench.comparing.result_set import ResultSet
from bench.results.record import Record
from bench.system.grouping import group_by
from bench.system.text import escape_markdown

PREFIX = "languages-"
BITS, TOKENS = "text_bits_per_byte", "tokens_per_byte"
CAPTION = (
    "Dense: bits per byte, and in brackets tokens per byte. Other columns: the rise of the bits in "
    "percent with its 95% interval, then the mean KL to the dense model in nats per token."
)


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
    columns: dict[str, dict[str, str]] = {}
    losses: dict[str, float] = {}
    for name, own in rows.items():
        columns[name] = {}
        for language, measured in _by_language(own).items():
            rise, text = _loss(_seeds(dense[language]), _seeds(measured), results)
            columns[name][language] = f"{text}, {mean_kl(measured['fidelity'], results):.3f}"
            losses[name] = losses.get(name, 0.0) + rise
    order = sorted(columns, key=losses.__getitem__)
    lines = []
    for language, measured in dense.items():
        bits, tokens = (_mean(measured["text_bits"], metric) for metric in (BITS, TOKENS))
        cells = [columns[name].get(language, DASH) for name in order]
        lines.append([language, f"{bits:.2f} ({tokens:.2f})", *cells])
    return markdown(["", ">dense", *(f">{escape_markdown(name)}" for name in order)], lines)


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


def _loss(dense: Seeds, row: Seeds, results: ResultSet) -> tuple[float, str]:
    """Return the rise of the bits as a share, and it in words.

    A text has the same tokens in both rows, so bits rise as the logarithm of perplexity does.
    """
    whole = math.log(mean(dense))
    rise = math.log(mean(row)) / whole - 1
    ratio = compare(dense, row, results)
    if ratio is None:
        return rise, f"{100 * rise:.1f}"
    low, high = (100 * math.log(end) / whole for end in (ratio.low, ratio.high))
    return rise, f"{100 * rise:.1f} ({low:.1f} to {high:.1f})"


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
