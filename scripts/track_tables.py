"""Tables of what each track loses, and of the smallest loss that each size of a track can tell."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import NamedTuple

import declared
import numpy as np
from numpy.typing import NDArray
from page_records import ROOT, known_variance, make_sections, markdown, read
from scipy.stats import rankdata
from size_tables import NONE

from bench.comparing.result_set import ResultSet
from bench.inputs import tracks
from bench.parts.leaderboard import table_figures
from bench.parts.leaderboard.table_figures import TableFigure
from bench.reporting import pairwise, profile
from bench.reporting.labelled_rows import is_file
from bench.reporting.view import Table
from bench.results import metrics
from bench.results.identity import Identity
from bench.results.record import Record
from bench.stats.bootstrap import satterthwaite, students_t
from bench.stats.ratios import Change, PairedGroup, estimate_change
from bench.stats.seed_noise import SeedNoise
from bench.system.grouping import group_by
from bench.system.text import amount, escape_markdown

PROFILES = "results/tracks"
"""Folder whose profiles the pages show."""


def profiles(folder: str) -> str:
    """Return a picture for each model of what each track loses. The page has the tables."""
    pictures = []
    for name, _, picture in profile_figures(folder):
        pictures.append(f"![{escape_markdown(picture.title)}](figures/{name}.svg)\n")
    return "\n".join([*pictures, f"{profile.CAPTION}\n"])


@cache
def track_ranks(folder: str, pattern: str, track: str, other: str) -> str:
    """Return in how many rows of a pattern a track loses most, and another ties with it."""
    parts = []
    for name, one, _ in profile_figures(folder):
        losses = [one.facts(k).tracks for k in profile.rows_of(one) if pattern in _words(one, k)]
        first = tied = 0
        for of_row in losses:
            ranks = {each: (best, worst) for each, best, worst in profile.rank(of_row)}
            first += ranks[track][0] == 1
            tied += ranks[other][0] <= ranks[track][1]
        model = name.removeprefix("profile-")
        parts.append(f"{first} of {len(losses)} rows of {model} ({other} ties with it in {tied})")
    return (
        f"At {pattern}, {track} loses the most bits per byte, alone or in a tie, in "
        f"{' and in '.join(parts)}.\n"
    )


def _words(one: Table, k: int) -> list[str]:
    """Return the words of a row's name, a pattern among them."""
    return one.rows[k].name.split()


def profile_figures(folder: str) -> list[tuple[str, Table, TableFigure]]:
    """Return the file name, the table and the heat map of each model of a folder."""
    if not (ROOT / folder / "records").is_dir():
        return []
    found = []
    for section in make_sections(folder):
        one, title = section.tables[0], section.title
        if profile.rows_of(one):
            found.append((f"profile-{title}", one, table_figures.draw_tracks(one, title)))
    return found


PREDICTORS = {
    "kl": "mean KL",
    "kl_p99": "KL, 99%",
    "kl_p999": "KL, 99.9%",
    "ear": "1 − EAR",
    "top1_agreement": "1 − same top token",
    "perplexity": "perplexity",
}
"""Names of the numbers that may order rows as the tracks do, the first beside all others. The ratio
of perplexities orders the rows of one model as the perplexity does."""
HIGHER = ("ear", "top1_agreement")
"""Those that fall as a row loses."""
LOSSES = ("bits per byte", "right answers")
ROUNDING = 1e-9
"""Difference of two rank correlations that is rounding."""
MIN_ROWS = 5
"""Fewest rows of a model with a rank correlation. No order of four is significant at 5%."""
ROW_DRAWS = 4000
Rows = dict[tuple[str, str], tuple[float, ...]]
"""Numbers of each row, by model and row."""


class Estimate(NamedTuple):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


class Prediction(NamedTuple):
    """How one of PREDICTORS orders rows, for each of LOSSES."""

    name: str
    correlations: tuple[Estimate, ...]
    differences: tuple[Estimate, ...]
    """To the correlations of the first predictor. Empty for the first."""


def predictors(folder: str, *others: str) -> str:
    """Return which distance to the dense model orders the rows best by what they lose in the
    tracks. others: boards with the distances of the same rows."""
    losses, distances = _losses(folder), _distances(others)
    by_model = group_by([key for key in losses if key in distances], lambda key: key[0])
    headers, columns, answers = ["predictor"], [], []
    for model, keys in by_model.items():
        if len(keys) < MIN_ROWS:
            answers.append(
                f"{model} has {amount(len(keys), 'row')} with answers and a distance. "
                f"A rank correlation needs {MIN_ROWS}."
            )
            continue
        found = _predict([(*distances[key], *losses[key]) for key in keys])
        answers.append(f"{model}, {len(keys)} rows: {_answer(found)}")
        for j, what in enumerate(LOSSES):
            headers.append(f">{model}, lost {what}")
            columns.append([one.correlations[j] for one in found])
    text = "\n".join(f"- {answer}" for answer in answers) or "No row has answers and a distance."
    if not columns:
        return f"{text}\n"
    rows = []
    for name, *correlations in zip(PREDICTORS.values(), *columns, strict=True):
        rows.append([name, *map(str, correlations)])
    return (
        f"{text}\n\n{markdown(headers, rows)}\nRank correlation (Spearman) with the mean loss "
        "over tracks. Intervals hold 95%, over rows.\n"
    )


def _answer(found: Sequence[Prediction]) -> str:
    """Return in words which predictor orders the rows best, and which ones differ from the first
    by more than noise."""
    first, *rest = found
    sentences = []
    for j, what in enumerate(LOSSES):
        most = max(one.correlations[j].value for one in found)
        best = [one.name for one in found if one.correlations[j].value >= most - ROUNDING]
        sentences.append(f"Lost {what}: best ordered by {'; '.join(best)} ({most:.2f}).")
        worse = [one.name for one in rest if one.differences[j].high < 0]
        better = [one.name for one in rest if one.differences[j].low > 0]
        for names, word in ((worse, "worse"), (better, "better")):
            if names:
                verb = "are" if len(names) > 1 else "is"
                text = f"Beyond noise, {'; '.join(names)} {verb} {word} than {first.name}."
                sentences.append(text)
        if not worse and not better:
            sentences.append(f"No other differs from {first.name} beyond noise.")
    return " ".join(sentences)


def _losses(folder: str) -> Rows:
    """Return the rise in bits per byte, and the share of right answers lost, mean over tracks."""
    found: Rows = {}
    for section in make_sections(folder):
        one = section.tables[0]
        for k in profile.rows_of(one):
            of_row = one.facts(k).tracks.values()
            lost = [track.flips.lost for track in of_row if track.flips]
            if lost and not is_file(one.rows[k].filters):
                rise = statistics.mean(track.rise.value for track in of_row)
                found[section.title, one.rows[k].name] = rise, statistics.mean(lost)
    return found


def _distances(boards: Sequence[str]) -> Rows:
    """Return the PREDICTORS of the rows of boards that have all of them."""
    found: Rows = {}
    measured = [f"results/{name}" for name in boards if declared.read()[name].measured]
    for section in make_sections(*measured) if measured else []:
        one = section.tables[0]
        for k in one.whole_rows:
            values = [one.value(k, one.column(metric)) for metric in PREDICTORS]
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                signed = zip(PREDICTORS, known, strict=True)
                far = [1 - value if metric in HIGHER else value for metric, value in signed]
                found[section.title, one.rows[k].name] = tuple(far)
    return found


def _predict(rows: Sequence[tuple[float, ...]]) -> list[Prediction]:
    """Return how each predictor orders rows. rows: PREDICTORS and LOSSES of each row."""
    table, rng = np.array(rows), np.random.default_rng(0)
    drawn = [table, *(rng.choice(table, len(table)) for _ in range(ROW_DRAWS))]
    count = len(PREDICTORS)
    # A draw of one row, again and again, has no correlation.
    several = [one for one in drawn if (one != one[0]).any(0).all()]
    ranks = _rank_correlations(np.stack(several), count)
    out = []
    for i, name in enumerate(PREDICTORS.values()):
        own = tuple(_estimate(ranks[:, i, j]) for j in range(len(LOSSES)))
        gaps = tuple(_estimate(ranks[:, i, j] - ranks[:, 0, j]) for j in range(len(LOSSES)))
        out.append(Prediction(name, own, gaps if i else ()))
    return out


def _rank_correlations(draws: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return Spearman's rho of each of the first columns with each of the others: [draws, count,
    columns - count]. draws: [draws, rows, columns]."""
    ranks = rankdata(draws, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    ranks /= np.linalg.norm(ranks, axis=1, keepdims=True)
    products = ranks[:, :, :count].transpose(0, 2, 1) @ ranks[:, :, count:]
    found: NDArray[np.float64] = np.round(products, 12)  # the same for columns of the same ranks
    return found


def _estimate(draws: NDArray[np.float64]) -> Estimate:
    """Return the first draw, with the interval of all."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(float(draws[0]), float(low), float(high))


TOLD_PATTERN = "2:4"
"""Pattern of the rows whose differences the table of sizes tells."""


class TaskPart(NamedTuple):
    """What one task adds to the difference of two rows in a track."""

    track: str
    task: str
    change: Change
    """Difference of their losses, on the questions that were measured."""
    dense: float
    """Bits per byte of the dense model."""
    questions: int
    seconds: float
    """Seconds of a question in a row."""


def track_sizes(folder: str) -> str:
    """Return the smallest difference of two rows' losses that each size of the tracks can tell, and
    the seconds of a row. Of the sizes that were not measured they follow from the questions that
    were, whose variance falls as their number grows. The noise between seeds stays."""
    results, sizes = read(folder), tracks.sizes()
    draws, metric = known_variance().draws, metrics.find(profile.METRIC)
    told: dict[tuple[str, str], list[float]] = {}
    costs: dict[tuple[str, str], list[float]] = {}
    computed: set[str] = set()
    for records in group_by(results.records, lambda record: record.identity.model).values():
        rows = group_by(records, lambda record: record.identity.key("measure", "protocol"))
        dense = next(of for of in rows.values() if _is_dense(of[0].identity))
        chosen = [of for of in rows.values() if _is_told(of[0].identity)]
        for one, other in combinations(chosen, 2):
            parts = list(_parts_of_tracks(dense, one, other, results))
            for track, of_track in group_by(parts, lambda part: part.track).items():
                noise, _ = draws.of_record(one[0], metric)
                for size, limits in sizes.items():
                    half, seconds = _told(of_track, limits, noise)
                    told.setdefault((track, size), []).append(half)
                    costs.setdefault((track, size), []).append(seconds)
                    if any(_questions(part, limits) != part.questions for part in of_track):
                        computed.add(size)
    lines = []
    medians = {key: statistics.median(seconds) for key, seconds in costs.items()}
    for track in dict.fromkeys(track for track, _ in told):
        cells = [track]
        for size in sizes:
            span = f"{100 * min(told[track, size]):.0f} to {100 * max(told[track, size]):.0f}"
            cells.append(f"{span} points, {medians[track, size]:.0f} s")
        lines.append(cells)
    whole = {size: sum(s for (_, of), s in medians.items() if of == size) for size in sizes}
    lines.append(["all", *(f"{seconds:.0f} s" for seconds in whole.values())])
    kinds = {size: "computed" if size in computed else "measured" for size in sizes}
    return markdown(("track", *(f">{size}, {kind}" for size, kind in kinds.items())), lines)


def _is_dense(identity: Identity) -> bool:
    return identity.method == "dense" and identity.quantizer == NONE


def _is_told(identity: Identity) -> bool:
    return identity.pattern == TOLD_PATTERN and identity.quantizer == NONE


def _parts_of_tracks(
    dense: Sequence[Record], one: Sequence[Record], other: Sequence[Record], results: ResultSet
) -> Iterator[TaskPart]:
    """Yield the difference of two rows in each task, as a share of the dense model's bits."""
    sides = [
        {label: of[0] for label, of in profile.by_task(r).items()} for r in (dense, one, other)
    ]
    for label, record in sides[0].items():
        if not all(label in side for side in sides):
            continue
        was, a, b = (results.items(side[label]) for side in sides)
        bits = [items.columns["value"] for items in (was, a, b)]
        after = bits[0] + bits[2] - bits[1]
        group = PairedGroup(bits[0], after[None], was.clusters.astype(str))
        change = estimate_change([group])
        if change:
            name, count = record.identity.protocol.name, len(was.ids)
            seconds = float(sides[1][label].cost.get("wall_s", 0.0)) / count
            track = name.partition("/")[0]
            yield TaskPart(track, name, change, float(bits[0].mean()), count, seconds)


def _told(
    parts: Sequence[TaskPart], limits: Mapping[str, int], noise: SeedNoise
) -> tuple[float, float]:
    """Return half of the interval of the difference at a size, and the seconds of a row."""
    variances, seconds = [], 0.0
    for part in parts:
        count = _questions(part, limits)
        more = count / part.questions
        variance = part.change.stderr**2 / len(parts) ** 2 / more
        variances.append((variance, part.change.freedom * more))
        seconds += part.seconds * count
    scale = statistics.fmean(1 / part.dense for part in parts)
    variances.append((2 * noise.variance * scale**2, noise.freedom))
    total = sum(variance for variance, _ in variances)
    return students_t(pairwise.ALPHA, satterthwaite(variances)) * total**0.5, seconds


def _questions(part: TaskPart, limits: Mapping[str, int]) -> int:
    return tracks.limit_of(part.task, limits, part.questions)


TABLES: dict[str, Callable[..., str]] = {
    "profile": profiles,
    "predictors": predictors,
    "ranks": track_ranks,
    "sizes": track_sizes,
}
"""Functions by the kind of a table in results/boards.toml."""
