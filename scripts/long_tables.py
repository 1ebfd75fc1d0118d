"""Tables of long input: what dense models find in it, and what each row loses of that."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from page_records import DASH, known_variance, markdown, origin_note, read

from bench.catalog.choice import short_label
from bench.comparing.floors import Floors
from bench.comparing.pairing import MetricPair
from bench.comparing.result_set import ResultSet
from bench.parts.fidelity import tally
from bench.reporting import profile
from bench.reporting.pairwise import ALPHA
from bench.results import metrics
from bench.results.identity import Identity
from bench.results.record import Record
from bench.stats import multiple_tests
from bench.stats.ratios import Change, PairedGroup, differ_p, estimate_change
from bench.system.grouping import group_by
from bench.system.text import escape_markdown

BITS, GAIN = "ruler_bits", "ruler_gain"
Kinds = Mapping[str, tuple[str, ...]]
KINDS: Kinds = {
    "one needle": ("niah_single_1", "niah_single_2", "niah_single_3"),
    "needle among needles": ("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    "several needles": ("niah_multivalue", "niah_multiquery"),
    "variables": ("vt",),
    "frequent words": ("cwe", "fwe"),
}
"""Tasks of RULER by what they ask for."""
ALL = {"all": tuple(task for tasks in KINDS.values() for task in tasks)}
DENSE_CAPTION = (
    "The dense models. Bits per byte of the right answer, mean over tasks. In brackets: how many "
    "more the answer to another question takes at the same place."
)
CAPTION = (
    "Loss: bits per byte of the right answers, less those of the dense model, mean over tasks, "
    "with the 95% interval of the pairs of questions and of the noise between calibration seeds. "
    "With an asterisk: fewer than 8 degrees of freedom. The kinds of task are over all lengths. "
    "The last column is the track of short questions that loses most in the same row of "
    "[the tracks](#what-compression-takes-away-track-by-track). In bold: lost first, that is the "
    "largest loss of the row, long and short, and the losses above 0 that do not differ from it "
    "(Holm, 5%)."
)

FIRST_POSITION = 512
"""Earlier positions are in other tables."""

Tasks = Mapping[tuple[str, int], Record]
"""Records of a row by task and number of tokens."""
Rows = Mapping[str, Tasks]
"""Rows of a model by name."""


def long_input(folder: str, short: str) -> str:
    """Return a table of the bits of dense models at each length, and one of what their rows lose.

    short: folder of the board whose tracks are beside the losses.
    """
    results = read(folder)
    records = [r for r in results.records if r.identity.measure == "ruler" and r.status == "ok"]
    models: dict[str, Rows] = {}
    dense, floors = {}, []
    for model, of_model in group_by(records, lambda record: record.identity.model).items():
        rows = {name: _by_task(of) for name, of in group_by(of_model, row_of).items()}
        dense[model], at_floor = _above_floor(rows.pop("dense"))
        models[model] = rows
        floors += [f"{task} of {escape_markdown(model)}" for task in at_floor]
    parts = [_dense_table(dense), f"{DENSE_CAPTION}\n"]
    if floors:
        parts.append(f"At the floor for the dense model, and left out: {', '.join(floors)}.\n")
    parts += [_losses_table(dense, models, results, str(Path("results") / short)), f"{CAPTION}\n"]
    return "\n".join([*parts, origin_note(records).lstrip("\n")])


def row_of(record: Record) -> str:
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


def _dense_table(dense: Mapping[str, Tasks]) -> str:
    lines = []
    for model, tasks in dense.items():
        asked = {length: sum(at == length for _, at in tasks) for length in _lengths(tasks)}
        for length, count in asked.items():
            few = f" ({count} tasks)" if count < max(asked.values()) else ""
            cells = [escape_markdown(model), f"{length:,}{few}"]
            for kind in KINDS.values():
                own = [tasks[task, length] for task in kind if (task, length) in tasks]
                bits, gain = (_mean(own, metric) for metric in (BITS, GAIN))
                cells.append(f"{bits:.2f} ({gain:.2f})" if own else DASH)
            lines.append(cells)
    return markdown(["", ">tokens", *(f">{kind}" for kind in KINDS)], lines)


def _mean(records: Sequence[Record], metric: str) -> float:
    readings = [r.value for one in records for r in one.readings if r.metric == metric]
    return statistics.fmean(value or 0.0 for value in readings) if readings else 0.0


def _losses_table(
    dense: Mapping[str, Tasks], models: Mapping[str, Rows], results: ResultSet, short: str
) -> str:
    """Return a line for each row of each model, in the order of their loss."""
    lengths = sorted({at for rows in models.values() for own in rows.values() for _, at in own})
    lines = []
    for model, rows in models.items():
        by_loss = []
        for name, own in rows.items():
            kinds = _losses(dense[model], own, KINDS, lengths, results)
            if not kinds:
                continue
            cells = [f"{escape_markdown(model)}: {escape_markdown(name)}"]
            for length in lengths:
                whole = _losses(dense[model], own, ALL, [length], results)
                cells.append(_text(whole.get("all")))
            tracks = _short_losses(short, model, name)
            first = lost_first({**kinds, **tracks})
            cells += [_text(kinds.get(kind), kind in first) for kind in KINDS]
            most = max(tracks, key=lambda track: tracks[track].value, default="")
            cells.append(f"{most} {_text(tracks[most], most in first)}" if most else DASH)
            loss = statistics.fmean(change.value for change in kinds.values())
            by_loss.append((loss, cells))
        lines += [cells for _, cells in sorted(by_loss)]
    tokens = [f">{length:,} tokens" for length in lengths]
    return markdown(["", *tokens, *(f">{kind}" for kind in KINDS), "short questions"], lines)


def _short_losses(folder: str, model: str, name: str) -> dict[str, Change]:
    """Return the loss of each track of short questions of a row, {} if it has none."""
    results = read(folder)
    own = [record for record in results.records if record.identity.model == model]
    rows = group_by(own, row_of)
    if name not in rows:
        return {}
    found = profile.compare(rows["dense"], rows[name], results, known_variance().draws)
    return {track: loss.rise for track, loss in found.items()}


def _losses(
    dense: Tasks, own: Tasks, kinds: Kinds, lengths: Sequence[int], results: ResultSet
) -> dict[str, Change]:
    """Return the loss of each kind of task at some lengths together."""
    found = {}
    for kind, tasks in kinds.items():
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
    """Return the kind with the largest loss, and those above 0 that do not differ from it. Empty if
    the largest may be 0."""
    largest, *others = sorted(losses, key=lambda kind: -losses[kind].value)
    if losses[largest].interval(ALPHA)[0] <= 0:
        return []
    found = [largest]
    p = multiple_tests.holm([differ_p(losses[largest], losses[kind]) for kind in others])
    for kind, x in zip(others, p, strict=True):
        if losses[kind].interval(ALPHA)[0] > 0 and not multiple_tests.differs(x, ALPHA):
            found.append(kind)
    return found


def _text(change: Change | None, bold: bool = False) -> str:
    if change is None:
        return DASH
    ends = [f"{end:.2f}" for end in (change.value, *change.interval(ALPHA))]
    value, low, high = ("0.00" if end == "-0.00" else end for end in ends)
    shown = f"**{value}**" if bold else value
    return f"{shown} ({low} to {high})" + (r"\*" if change.freedom < profile.FEW else "")


def kl_positions(folder: str) -> str:
    """Return a table of each row's KL by position in the text, the smallest loss first."""
    results = read(folder)
    records = [r for r in results.records if r.identity.measure == "fidelity" and r.status == "ok"]
    rows = {row_of(record): results.items(record).columns for record in records}
    rows.pop("dense", None)
    seqlen = max(record.identity.protocol.seqlen or 0 for record in records)
    buckets = [one for one in tally.buckets_of_positions(seqlen) if one[2] >= FIRST_POSITION]
    lines = []
    for name, columns in sorted(rows.items(), key=lambda row: float(row[1]["kl"].sum())):
        cells = [escape_markdown(name)]
        for label, _, _ in buckets:
            kl = columns[f"{label}: kl"] / columns[f"{label}: tokens"]
            cells.append(f"{kl.mean():.4f} ({kl.min():.4f} to {kl.max():.4f})")
        lines.append(cells)
    titles = [f">{first:,} to {last:,}" for _, first, last in buckets]
    count = len(next(iter(rows.values()))["value"])
    caption = (
        f"Mean KL to the dense model in nats per token, by position in {count} windows of "
        f"{seqlen:,} tokens of WikiText-2. In brackets: the smallest and the largest window."
    )
    return f"{markdown(['', *titles], lines)}\n{caption}\n{origin_note(records)}"


TABLES: dict[str, Callable[..., str]] = {"long": long_input, "kl-positions": kl_positions}
"""Functions by the kind of a table in results/boards.toml."""
