"""Tables and JSON of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.cli.console import print_line
from bench.cli.tables import print_table
from bench.parts.fidelity import tally
from bench.parts.fidelity.pair import ENGINES, Comparison, Pair, describe_text
from bench.parts.fidelity.tally import Interval
from bench.results.derive import Items

ROWS = {
    "kl": "KL, mean",
    "kl_median": "KL, median",
    "kl_p90": "KL, 90% of tokens",
    "kl_p99": "KL, 99%",
    "kl_p999": "KL, 99.9%",
    "kl_max": "KL, largest",
    "reverse_kl": "reverse KL, mean",
    "js_divergence": "Jensen-Shannon",
    "ear": "acceptance (EAR)",
    "top1": "same top token",
    "top5_overlap": "top-5 overlap",
    "original_token_probability": "p(original's top token)",
}
"""Names of the distances in the table, in order."""
BUCKET_TABLES = {
    "Tail of KL in each bucket": ("kl_median", "kl_p90", "kl_p99", "kl_p999", "kl_max"),
    "Other distances in each bucket": (
        "reverse_kl", "js_divergence", "top5_overlap", "original_token_probability",
    ),
}  # fmt: skip
"""Distances of the tables of `--buckets`, by their titles."""
FEW = f"fewer than {tally.BEYOND} tokens of the bucket are above the percentile"
"""Why a percentile is not shown."""
HIGHER = ("ear", "top1", "top5_overlap")
"""Distances that are 1 for equal models. A probability has no floor: it may rise or fall."""


@dataclass(frozen=True)
class Distance:
    """A distance over the whole text."""

    name: str
    found: Interval
    floor: float | None
    """Its value for the original beside itself, under the condition that changes it most. None: not
    measured."""

    @property
    def is_within(self) -> bool:
        """True if the original differs from itself by as much."""
        if self.floor is None:
            return False
        if self.name in HIGHER:
            return self.found.value >= self.floor
        return self.found.value <= self.floor


def interval_of(items: Items, name: str) -> Interval:
    """Return a distance over the whole text."""
    if name in tally.PERCENTILES:
        return tally.percentile_interval(items, tally.PERCENTILES[name])
    if name == "kl_max":
        return Interval(float(items.columns[tally.LARGEST].max()))
    return tally.mean_interval(items, name)


def interval_in(found: Comparison, name: str, label: str) -> Interval | None:
    """Return a distance over the tokens of a bucket. None: it is a percentile of too few."""
    tail = found.tails[label]
    if name not in tail:
        return tally.mean_interval(found.items, name, label)
    value = tail[name]
    return None if value is None else Interval(value)


def distances(found: Comparison) -> list[Distance]:
    """Return all distances over the whole text, each with its floor."""
    out = []
    for name in ROWS:
        worst = min if name in HIGHER else max
        floors = [interval_of(items, name).value for items in found.floor.values()]
        has_floor = floors and name != "original_token_probability"
        floor = worst(floors) if has_floor else None
        out.append(Distance(name, interval_of(found.items, name), floor))
    return out


def exceeds(found: Comparison, max_kl: float) -> bool:
    """Return whether the interval of the mean KL ends above a limit in nats. Without an interval,
    the mean decides."""
    mean = interval_of(found.items, "kl")
    return not (mean.value if mean.high is None else mean.high) <= max_kl


def describe_limit(found: Comparison, max_kl: float) -> str:
    """Return what is above a limit, in words."""
    mean = interval_of(found.items, "kl")
    if mean.high is None:
        return f"exceeds --max-kl {max_kl:g}: its mean KL is {mean.value:.3g} nats"
    return f"exceeds --max-kl {max_kl:g}: the interval of its mean KL ends at {mean.high:.3g} nats"


def print_tables(pair: Pair, found: Comparison, width: int, *, with_buckets: bool) -> None:
    """Print the distances, KL, EAR and equal top tokens of each bucket, and the floor by condition.

    with_buckets: also print the other distances of each bucket.
    """
    whole = distances(found)
    lines = []
    for distance in whole:
        floor = "" if distance.floor is None else _number(distance.floor)
        within = "within floor" if distance.is_within else ""
        interval = _interval(distance.found)
        lines.append([ROWS[distance.name], _number(distance.found.value), interval, floor, within])
    _, unit = tally.by_article(found.items)
    own = float(found.items.columns["confidence"].sum() / found.items.weights.sum())
    notes = [
        f"KL(original || compressed) in nats, {pair.dtype}. Intervals hold 95%, over {unit}.",
        f"The original gives its top token {_number(own)}.",
    ]
    if pair.request.engine != ENGINES[0]:
        notes.append(f"{pair.request.compressed} ran in {pair.request.engine}.")
    if any(distance.is_within for distance in whole):
        notes.append("Within floor: no more than the original differs from itself.")
    print_table(
        ["distance", "value", "95% interval", "floor", ""],
        lines,
        [False, True, False, True, False],
        title=f"{pair.request.compressed} beside {pair.request.original}: "
        f"{describe_text(pair, found.items)}",
        notes=notes,
        width=width,
    )
    print_line()
    print_table(
        ["tokens", "share", "KL", "95% interval", "of KL", "EAR", "top-1"],
        _bucket_lines(found.items),
        [False, True, True, False, True, True, True],
        title="By the original's confidence, position in the window, kind of token",
        width=width,
    )
    for title, shown in BUCKET_TABLES.items() if with_buckets else ():
        _print_buckets(found, title, shown, width)
    if not found.floor:
        return
    names = ("kl", "kl_p99", "kl_max", "ear", "top1")
    lines = []
    for condition, items in found.floor.items():
        lines.append([condition, *(_number(interval_of(items, name).value) for name in names)])
    print_line()
    print_table(
        ["original beside itself", *(ROWS[name] for name in names)],
        lines,
        [False, *(True for _ in names)],
        title="Floor",
        width=width,
    )


def _print_buckets(found: Comparison, title: str, names: tuple[str, ...], width: int) -> None:
    lines = []
    for label in tally.labels_of(found.items):
        if not found.items.columns[f"{label}: tokens"].any():
            continue
        values = [interval_in(found, name, label) for name in names]
        lines.append([label, *("few" if x is None else _number(x.value) for x in values)])
    notes = [f"few: {FEW}."] if any("few" in line for line in lines) else []
    heads = ["tokens", *(ROWS[name] for name in names)]
    right = [False, *(True for _ in names)]
    print_line()
    print_table(heads, lines, right, title=title, notes=notes, width=width)


def _bucket_lines(items: Items) -> list[list[str]]:
    every, total = float(items.weights.sum()), float(items.columns["kl"].sum())
    lines = []
    for label in tally.labels_of(items):
        tokens = float(items.columns[f"{label}: tokens"].sum())
        if not tokens:
            continue
        kl = tally.mean_interval(items, "kl", label)
        share = items.columns[f"{label}: kl"].sum() / total if total else 0.0
        ear, top = (tally.mean_interval(items, name, label).value for name in ("ear", "top1"))
        shares = [f"{100 * value:.0f}%" for value in (tokens / every, share)]
        line = [label, shares[0], _number(kl.value), _interval(kl, 2), shares[1]]
        lines.append([*line, _number(ear), _number(top)])
    return lines


def to_json(pair: Pair, found: Comparison, max_kl: float | None) -> dict[str, Any]:
    """Return a comparison as JSON values. Numbers have all digits."""
    request, items = pair.request, found.items
    by = []
    for label in tally.labels_of(items):
        row: dict[str, Any] = {
            "tokens": label,
            "count": int(items.columns[f"{label}: tokens"].sum()),
        }
        if row["count"]:
            for name in ROWS:
                value = interval_in(found, name, label)
                row[name] = value._asdict() if value else {"value": None, "why": FEW}
        by.append(row)
    whole = {}
    for distance in distances(found):
        whole[distance.name] = distance.found._asdict() | {
            "floor": distance.floor,
            "within_floor": distance.is_within,
        }
    floor = {
        condition: {name: interval_of(one, name).value for name in ROWS}
        for condition, one in found.floor.items()
    }
    out: dict[str, Any] = {
        "original": request.original,
        "compressed": request.compressed,
        "data": request.data,
        "windows": len(items.ids),
        "seqlen": pair.seqlen,
        "tokens": int(items.weights.sum()),
        "dtype": pair.dtype,
        "device": request.device,
        "threads": request.threads,
        "engine": request.engine,
        "interval_over": tally.by_article(items)[1],
        "distances": whole,
        "by": by,
        "floor": floor,
    }
    if max_kl is not None:
        out |= {"max_kl": max_kl, "passed": not exceeds(found, max_kl)}
    return out


def _number(value: float, digits: int = 3) -> str:
    if 0 < abs(value) < 1e-6:
        return "<1e-06"
    return f"{value:.{digits}g}"


def _interval(found: Interval, digits: int = 3) -> str:
    if found.low is None or found.high is None:
        return ""
    return f"{_number(found.low, digits)} to {_number(found.high, digits)}"
