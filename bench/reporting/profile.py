"""The profile of a compressed model: what each track loses against the dense model, and which
answers flip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from bench.comparing.pairing import another_source
from bench.comparing.result_set import ResultSet
from bench.comparing.seed_noise_table import SeedNoiseTable
from bench.inputs import tracks
from bench.reporting import pairwise, words
from bench.reporting.facts import Bound, Flips, TrackLoss
from bench.reporting.pairwise import ALPHA
from bench.reporting.table import ABSENT, TextTable
from bench.reporting.view import Table
from bench.results import computed, metrics
from bench.results.record import Record
from bench.stats import multiple_tests
from bench.stats.ratios import Change, PairedGroup, differ_p, estimate_change
from bench.stats.seed_noise import SeedNoise
from bench.system.grouping import group_by

MEASURE, METRIC, MBPP = "answers", "bits_per_byte", "code/mbpp"
CAPTION = (
    "Loss of each track: bits per byte of the right answers over the dense model's, minus 1, "
    "averaged over the track's tasks, with the 95% interval of the pairs of questions and of the "
    "noise between calibration seeds. With an asterisk: fewer than 8 degrees of freedom, as of six "
    "questions; such an interval misses the loss more often. "
    "Rows are in the order of their bytes."
)
RISE_CAPTION = (
    "The same loss in bits per byte, not divided by the dense model's. A track whose dense value "
    "is small, such as code, loses more in percent than in bits."
)
ORDER_CAPTION = (
    "The track that loses most bits per byte is first. Tracks that do not differ significantly "
    "have ranks in common."
)
FLIPS_CAPTION = (
    "Share of questions whose ranked answer is another than the dense model's, with its 95% "
    "interval; after it, right to wrong (−) and wrong to right (+), in percent."
)
CAPTIONS = (CAPTION, RISE_CAPTION, ORDER_CAPTION, FLIPS_CAPTION)
"""Captions of the tables of `text_tables`, in their order."""
FEW = 8.0
"""Degrees of freedom of a loss from which its interval has no asterisk. Of intervals from six
questions of results/tracks, drawn at random, 9% miss the loss, because losses are skewed. A t
interval of their logarithm misses 8%."""


def by_task(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the records of answers by the label of their task."""
    answers = (r for r in records if r.identity.measure == MEASURE and r.status == "ok" and r.items)
    return group_by(answers, lambda record: record.identity.protocol.label)


def compare(
    dense: Iterable[Record], own: Iterable[Record], results: ResultSet, draws: SeedNoiseTable
) -> dict[str, TrackLoss]:
    """Compare a row with the dense model, track by track.

    A track counts if both have the same tasks with the same numbers of questions, and the same
    questions. draws: noise between seeds, which is added if a row has few.
    """
    before, after = _by_track(dense), _by_track(own)
    out = {}
    for track in tracks.names():
        was, now = before.get(track), after.get(track)
        if was is None or now is None or was.keys() != now.keys():
            continue
        if len({task.partition("@")[0] for task in was}) < len(was):
            continue
        with_all_tasks = set.intersection(*map(set, now.values()))
        seeds = sorted(with_all_tasks, key=str)
        if not seeds:
            continue
        pairs = []
        for task, by_seed in was.items():
            pairs.append((next(iter(by_seed.values())), [now[task][seed] for seed in seeds]))
        loss = _compare_track(pairs, results, draws)
        if loss:
            out[track] = loss
    return out


def _by_track(records: Iterable[Record]) -> dict[str, dict[str, dict[int | None, Record]]]:
    """Return the records by track, task and seed."""
    out: dict[str, dict[str, dict[int | None, Record]]] = {}
    for task, of_task in sorted(by_task(records).items()):
        out.setdefault(task.partition("/")[0], {})[task] = {
            record.identity.seed: record for record in of_task
        }
    return out


def _compare_track(
    pairs: Sequence[tuple[Record, list[Record]]], results: ResultSet, draws: SeedNoiseTable
) -> TrackLoss | None:
    """Compare a track, once on a machine. pairs: for each task the dense model's record, and the
    row's, one for each seed."""
    one, noise = pairs[0][1][0], None
    if one.identity.seed is not None:
        noise, _ = draws.of_record(one, metrics.find(METRIC))
    records = [record for dense, own in pairs for record in (dense, *own)]
    about = ("track", [len(own) for _, own in pairs], noise and [noise.variance, noise.freedom])
    found = computed.recall(
        __name__, records, about, lambda: _estimate_track(pairs, results, noise)
    )
    if not found:
        return None
    change, rise = Change(*found[0]), Change(*found[1])
    loss = Bound(change.value, *change.interval(ALPHA))
    return TrackLoss(loss, change, rise, Flips.of(found[2]) if found[2] else None)


def _estimate_track(
    pairs: Sequence[tuple[Record, list[Record]]], results: ResultSet, noise: SeedNoise | None
) -> tuple[Any, ...]:
    """Return the loss, the rise and the flips of a track, or () if it cannot be compared."""
    groups, answers = [], []
    for dense, own in pairs:
        if any(another_source(dense, one) for one in own):
            return ()
        was, now = results.items(dense), [results.items(record) for record in own]
        if any(not np.array_equal(was.ids, one.ids) for one in now):
            return ()
        after = np.stack([one.columns["value"] for one in now])
        groups.append(
            PairedGroup(
                was.columns["value"],
                after,
                was.clusters.astype(str),
                _source(dense.identity.protocol.name),
            )
        )
        if all("choice" in one.columns for one in (was, *now)):
            accuracy = f"acc_{dense.notes.get('ranking', 'raw')}"
            choices = np.stack([one.columns["choice"] for one in now])
            right = np.stack([one.columns[accuracy] for one in now])
            answers.append((was.columns["choice"] != choices, was.columns[accuracy], right))
    change = estimate_change(groups, noise)
    rise = estimate_change(groups, noise, relative=False)
    if change is None or rise is None:
        return ()
    flips = pairwise.count_flips(answers)
    return change, rise, flips and flips.fields


def _source(task: str) -> str:
    """Return the task whose questions a task asks, under their ids: MBPP in another programming
    language asks MBPP's."""
    return MBPP if task.startswith(f"{MBPP}_") else task


def worst(losses: Mapping[str, TrackLoss]) -> tuple[Bound | None, str]:
    """Return the largest loss and its track.

    The interval reaches from the largest lower end of the tracks to the largest upper end, each at
    Bonferroni's level.
    """
    if not losses:
        return None, ""
    name = max(losses, key=lambda track: losses[track].loss.value)
    level = multiple_tests.bonferroni(ALPHA, len(losses))
    ends = [one.change.interval(level) for one in losses.values()]
    return Bound(
        losses[name].loss.value, max(low for low, _ in ends), max(high for _, high in ends)
    ), name


def rank(losses: Mapping[str, TrackLoss]) -> list[tuple[str, int, int]]:
    """Return each track with its best and worst rank, the largest rise in bits per byte first.

    A loss over the dense value is large where that value is small, as in code. Ranks are ranges as
    in a leaderboard, by Holm's p over all pairs.
    """
    names = sorted(losses, key=lambda track: (-losses[track].rise.value, track))
    pairs = list(combinations(names, 2))
    p = multiple_tests.holm([differ_p(losses[a].rise, losses[b].rise) for a, b in pairs])
    differing = [pair for pair, x in zip(pairs, p, strict=True) if multiple_tests.differs(x, ALPHA)]
    return multiple_tests.tie_groups(names, differing)


def order(losses: Mapping[str, TrackLoss]) -> str:
    """Return the ranks of tracks as text: "code 1, mathematics 2–3, reading 2–3"."""
    texts = []
    for name, best, worst in rank(losses):
        texts.append(f"{name} {best}" if best == worst else f"{name} {best}–{worst}")
    return ", ".join(texts)


def names_of(table: Table) -> list[str]:
    """Return the tracks that a row of the table has a loss in, in their usual order."""
    found = {track for row in table.rows if row.facts for track in row.facts.tracks}
    return [name for name in tracks.names() if name in found]


def rows_of(table: Table) -> list[int]:
    """Return the rows with a profile, those of the fewest bytes first."""
    with_facts = [k for k in table.whole_rows if table.rows[k].facts]
    kept = [k for k in with_facts if table.facts(k).tracks]
    return sorted(kept, key=lambda k: (table.facts(k).bytes or 0.0, k))


def text_tables(table: Table) -> list[TextTable]:
    """Return the profile as text: losses, order and flips. Empty without a profile."""
    rows = rows_of(table)
    if not rows:
        return []
    names = names_of(table)
    title = f"{table.title}, {table.protocol}"
    losses, rises, orders, flips, has_flips = [], [], [], [], False
    for k in rows:
        facts = table.facts(k)
        size = ABSENT if facts.bytes is None else f"{facts.bytes / 1e6:,.1f}"
        bits = ABSENT if facts.bits is None else f"{facts.bits:.4g}"
        first = [table.rows[k].name, size, bits]
        loss_cells, rise_cells, flip_cells = (dict.fromkeys(names, ABSENT) for _ in range(3))
        for name, loss in facts.tracks.items():
            loss_cells[name] = words.percent(*loss.loss.parts) + asterisk(loss)
            rise_cells[name] = words.bits_per_byte(loss.rise.value, *loss.rise.interval(ALPHA))
            if loss.flips:
                flip_cells[name] = describe_flips(loss.flips)
                has_flips = True
        ratio = words.ratio(*facts.ratio.parts) if facts.ratio else ABSENT
        losses.append([*first, ratio, *loss_cells.values()])
        rises.append([*first, *rise_cells.values()])
        orders.append([*first, order(facts.tracks)])
        flips.append([*first, *flip_cells.values()])
    heads = ["row", "MB", "bits per weight"]
    out = [TextTable(f"Loss of each track: {title}", [*heads, "perplexity ratio", *names], losses)]
    out.append(TextTable(f"Rise in bits per byte: {title}", [*heads, *names], rises))
    out.append(TextTable(f"Order of the losses: {title}", [*heads, "order"], orders))
    if has_flips:
        out.append(TextTable(f"Flips: {title}", [*heads, *names], flips))
    return out


def asterisk(loss: TrackLoss) -> str:
    """Return the mark of an interval that rests on few questions, or ""."""
    return "*" if loss.change.freedom < FEW else ""


def describe_flips(flips: Flips) -> str:
    """Format flips, with the shares of lost and gained answers: 12.0% (8.1 to 17.0), −8.0 +4.0."""
    lost, gained = words.hundredths(-flips.lost), words.hundredths(flips.gained)
    return f"{words.percent(*flips.changed.parts)}, {lost} +{gained}"
