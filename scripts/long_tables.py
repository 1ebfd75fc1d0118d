"""Tables of long input: what the dense model finds in it, and what each row loses of that."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from page_records import DASH, known_variance, markdown, origin_note, read

from bench.catalog.choice import short_label
from bench.comparing.floors import Floors
from bench.comparing.pairing import MetricPair
from bench.comparing.result_set import ResultSet
from bench.reporting.pairwise import ALPHA
from bench.reporting.profile import FEW
from bench.results import metrics
from bench.results.identity import Identity
from bench.results.record import Record
from bench.stats import multiple_tests
from bench.stats.ratios import Change, PairedGroup, differ_p, estimate_change
from bench.system.grouping import group_by
from bench.system.text import escape_markdown

BITS, GAIN = "ruler_bits", "ruler_gain"
KINDS = {
    "one needle": ("niah_single_1", "niah_single_2", "niah_single_3"),
    "needle among needles": ("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    "several needles": ("niah_multivalue", "niah_multiquery"),
    "variables": ("vt",),
    "frequent words": ("cwe", "fwe"),
}
"""Tasks of RULER by what they ask for."""
DENSE_CAPTION = (
    "Bits per byte of the right answer, mean over tasks. In brackets: how many more the answer to "
    "another question takes at the same place."
)
CAPTION = (
    "Loss: bits per byte of the right answers, less those of the dense model, mean over tasks, "
    "with the 95% interval of the pairs of questions and of the noise between calibration seeds. "
    "With an asterisk: fewer than 8 degrees of freedom. Lost first: the kinds of task whose loss, "
    "over all lengths, is the largest or does not differ from it (Holm, 5%)."
)

Tasks = Mapping[tuple[str, int], Record]
"""Records of a row by task and number of tokens."""


def long_input(folder: str) -> str:
    """Return two tables for each model: its bits at each length, and what its rows lose of them."""
    results = read(folder)
    records = [r for r in results.records if r.identity.measure == "ruler" and r.status == "ok"]
    parts = []
    for model, of_model in group_by(records, lambda record: record.identity.model).items():
        rows = {name: _by_task(of) for name, of in group_by(of_model, _row_of).items()}
        dense = rows.pop("dense")
        kept, floors = _above_floor(dense)
        parts.append(f"**{escape_markdown(model)}**\n\n{_dense_table(kept)}\n{DENSE_CAPTION}\n")
        if floors:
            parts.append(f"At the floor for the dense model, and left out: {', '.join(floors)}.\n")
        parts.append(f"{_losses_table(kept, rows, results)}\n{CAPTION}\n{origin_note(of_model)}")
    return "\n".join(parts)


def _row_of(record: Record) -> str:
    """Return the name of a record's row: the method, the pattern and the quantizer that it has."""
    identity: Identity = record.identity
    words = [identity.method, identity.pattern, short_label(identity.quantizer, ())]
    return " ".join(word for word in words if word not in ("dense", "none")) or "dense"


def _by_task(records: Sequence[Record]) -> dict[tuple[str, int], Record]:
    found = {}
    for record in records:
        _, task, length = record.identity.protocol.name.split("/")
        found[task, int(length)] = record
    return found


def _above_floor(dense: Tasks) -> tuple[Tasks, list[str]]:
    """Return the tasks that the dense model can do, and the names of the others."""
    floors = Floors(dense.values())
    kept, others = {}, []
    for (task, length), record in sorted(dense.items(), key=lambda item: item[0][1]):
        if floors.describe(MetricPair("dense", BITS, (record,), (record,))):
            others.append(f"{task} at {length:,} tokens")
        else:
            kept[task, length] = record
    return kept, others


def _lengths(tasks: Tasks) -> list[int]:
    return sorted({length for _, length in tasks})


def _dense_table(dense: Tasks) -> str:
    lines = []
    for length in _lengths(dense):
        cells = [f"{length:,}"]
        for tasks in KINDS.values():
            own = [dense[task, length] for task in tasks if (task, length) in dense]
            bits, gain = (_mean(own, metric) for metric in (BITS, GAIN))
            cells.append(f"{bits:.2f} ({gain:.2f})" if own else DASH)
        lines.append(cells)
    return markdown([">tokens", *(f">{kind}" for kind in KINDS)], lines)


def _mean(records: Sequence[Record], metric: str) -> float:
    readings = [r.value for one in records for r in one.readings if r.metric == metric]
    return statistics.fmean(value or 0.0 for value in readings) if readings else 0.0


def _losses_table(dense: Tasks, rows: Mapping[str, Tasks], results: ResultSet) -> str:
    """Return a line for each row and length, rows in the order of their loss."""
    by_row: dict[str, dict[int, list[str]]] = {}
    order: dict[str, float] = {}
    for name, own in rows.items():
        whole = _losses(dense, own, _lengths(own), results)
        if not whole:
            continue
        order[name] = statistics.fmean(change.value for change in whole.values())
        by_row[name] = {}
        for length in _lengths(own):
            losses = _losses(dense, own, [length], results)
            by_row[name][length] = [_text(losses.get(kind)) for kind in KINDS]
        first = ", ".join(lost_first(whole)) or DASH
        for cells in by_row[name].values():
            cells.append(first)
    lines = []
    for name in sorted(by_row, key=lambda row: order[row]):
        for length, cells in by_row[name].items():
            lines.append([escape_markdown(name), f"{length:,}", *cells])
    return markdown(["", ">tokens", *(f">{kind}" for kind in KINDS), "lost first"], lines)


def _losses(
    dense: Tasks, own: Tasks, lengths: Sequence[int], results: ResultSet
) -> dict[str, Change]:
    """Return the loss of each kind of task at some lengths together."""
    found = {}
    for kind, tasks in KINDS.items():
        places = [(task, length) for task in tasks for length in lengths]
        shared = [place for place in places if place in dense and place in own]
        groups = list(_pairs(dense, own, shared, results))
        if groups:
            record, noise = own[shared[0]], None
            if record.identity.seed is not None:
                noise, _ = known_variance().draws.of_record(record, metrics.find(BITS))
            change = estimate_change(groups, noise, relative=False)
            if change:
                found[kind] = change
    return found


def _pairs(
    dense: Tasks, own: Tasks, places: Sequence[tuple[str, int]], results: ResultSet
) -> Iterator[PairedGroup]:
    """Yield the answers of each task. A question of two lengths is one cluster."""
    for place in places:
        was, now = results.items(dense[place]), results.items(own[place])
        if list(was.ids) == list(now.ids):
            bits = now.columns["value"][None]
            yield PairedGroup(was.columns["value"], bits, was.clusters.astype(str), place[0])


def lost_first(losses: Mapping[str, Change]) -> list[str]:
    """Return the kind with the largest loss, and those that do not differ from it. Empty if the
    largest may be 0."""
    largest, *others = sorted(losses, key=lambda kind: -losses[kind].value)
    if losses[largest].interval(ALPHA)[0] <= 0:
        return []
    p = multiple_tests.holm([differ_p(losses[largest], losses[kind]) for kind in others])
    return [
        largest,
        *(k for k, x in zip(others, p, strict=True) if not multiple_tests.differs(x, ALPHA)),
    ]


def _text(change: Change | None) -> str:
    if change is None:
        return DASH
    ends = [f"{end:.2f}" for end in (change.value, *change.interval(ALPHA))]
    value, low, high = ("0.00" if end == "-0.00" else end for end in ends)
    return f"{value} ({low} to {high})" + (r"\*" if change.freedom < FEW else "")


TABLES: dict[str, Callable[..., str]] = {"long": long_input}
"""Functions by the kind of a table in results/boards.toml."""
