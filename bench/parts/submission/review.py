"""Review a submission: what refuses it, and what it changes on the leaderboard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bench.comparing import result_arguments
from bench.comparing.result_set import ResultSet
from bench.parts.submission import submission_rules
from bench.reporting import board, searches
from bench.reporting.searches import About
from bench.reporting.view import Table
from bench.results.folder_check import FolderCheck, check_folder, disagreements
from bench.results.identity import Identity
from bench.results.record import Record
from bench.results.store import RESULTS, ReadOnlyStore
from bench.system.grouping import group_by
from bench.system.provenance import format_time
from bench.system.text import amount


@dataclass(frozen=True)
class Effect:
    """A table of the leaderboard with rows of a submission, and the same table without them."""

    section: str
    table: Table
    rows: tuple[int, ...]
    """Rows of the submission."""
    before: Table | None


@dataclass(frozen=True)
class Review:
    """The outcome of a review."""

    folder: Path
    about: About
    checked: FolderCheck
    refusals: tuple[str, ...]
    effects: tuple[Effect, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def records(self) -> tuple[Record, ...]:
        return self.checked.records

    def at(self, place: Path) -> Review:
        """Return the review of a temporary copy with the path of what was copied in its
        refusals."""
        refusals = tuple(
            sentence.replace(str(self.folder), str(place)) for sentence in self.refusals
        )
        return replace(self, refusals=refusals)


def read_published(root: Path, without: str = "") -> list[ResultSet]:
    """Read the results folders below a folder, but for that of `bench run`'s default and the one
    named `without`."""
    folders = sorted(path.parent for path in root.glob("*/records") if path.is_dir())
    return [
        result_arguments.read(path, every=True)
        for path in folders
        if path.name not in (without, RESULTS.name)
    ]


def review(folder: Path, published: Sequence[ResultSet], name: str) -> Review:
    """Review a folder that `bench submit` wrote. name: its name among the published folders."""
    now = datetime.now(UTC)
    strange = tuple(submission_rules.of_files(folder))
    if strange:
        return Review(folder, About(), FolderCheck((), 0, {}, (), ()), strange)
    checked, about = check_folder(folder), searches.read_about(folder)
    refusals = [
        *checked.problems,
        *(f"{path} belongs to no record: leave it out" for path in checked.leftovers),
    ]
    if not checked.records and not refusals:
        refusals.append(f"{folder} has no records")
    taken = (Path(one.name).name for one in published)
    refusals += submission_rules.of_name(name, (r.identity.model for r in checked.records), taken)
    refusals += submission_rules.of_about(about, checked.records, now.date())
    refusals += _of_records(
        folder, checked.records, published, format_time(now.timestamp() + 86400)
    )
    out = Review(
        folder, about, checked, tuple(refusals), remarks=tuple(_remarks(checked.records, published))
    )
    if refusals:
        return out
    effects = tuple(_effects(folder, checked.records, published))
    trained = {record.stem for record in checked.records if record.identity.training}
    impossible = tuple(sentence for effect in effects for sentence in _of_losses(effect, trained))
    return Review(folder, about, checked, impossible, effects, out.remarks)


def _of_records(
    folder: Path, records: Sequence[Record], published: Sequence[ResultSet], now: str
) -> Iterator[str]:
    """Yield what refuses a record, alone or beside the others and the published ones."""
    store = ReadOnlyStore(folder)
    found = []
    for record in records:
        items = store.items(record) if record.items else None
        found += [(record, sentence) for sentence in submission_rules.of_record(record, items, now)]
    places = index(published)
    theirs = [record for one in published for record in one.records]
    boards = [record for one in published if not searches.is_search(one) for record in one.records]
    own = {record.key for record in records}
    found += submission_rules.of_repetition(records, places)
    found += submission_rules.of_quantized_size(records)
    found += submission_rules.of_copies(records, theirs)
    found += submission_rules.of_dense(records, theirs)
    found += submission_rules.of_protocol(records, boards)
    found += [
        (r, sentence) for r, sentence in disagreements([*theirs, *records], {}) if r.key in own
    ]
    for sentence, some in group_by(found, lambda pair: pair[1]).items():
        more = f" and {amount(len(some) - 1, 'more record')}" if some[1:] else ""
        yield f"{store.path(some[0][0].key)}{more}: {sentence}"


def index(published: Sequence[ResultSet]) -> submission_rules.Published:
    """Return the folder and the record of each measurement that the leaderboard has, by
    identity."""
    return {
        r.identity.key(): (one.name, r)
        for one in published
        if not searches.is_search(one)
        for r in one.records
    }


def _effects(
    folder: Path, records: Sequence[Record], published: Sequence[ResultSet]
) -> Iterator[Effect]:
    """Make the tables that have rows of the submission, with it and without."""
    models = {record.identity.model for record in records}
    before = []
    for one in published:
        same = [r for r in one.records if r.identity.model in models]
        if same and not searches.is_search(one):
            before.append(one.only(one.name, same))
    own = {record.stem for record in records}
    tables = {(s.title, t.protocol): t for s in board.make_sections(before) for t in s.tables}
    for section in board.make_sections(
        [*before, ResultSet(str(folder), tuple(records), ReadOnlyStore(folder).items)]
    ):
        for table in section.tables:
            rows = tuple(k for k in table.whole_rows if _has(table, k, own))
            if rows:
                yield Effect(
                    section.title, table, rows, tables.get((section.title, table.protocol))
                )


def _has(table: Table, row: int, own: set[str]) -> bool:
    return any(cell and own.intersection(cell.records) for cell in table.rows[row].cells)


def _of_losses(effect: Effect, trained: set[str]) -> Iterator[str]:
    """Refuse a perplexity without a dense one beside it, or below it by more than its interval
    without training.

    trained: records of methods that train.
    """
    table = effect.table
    at = next((c for c, column in enumerate(table.columns) if column.metric == "perplexity"), None)
    for k in effect.rows:
        row = table.rows[k]
        is_dense = row.filters["method"] == "dense" and not row.is_quantized
        if table.value(k, at) is None or row.facts is None or is_dense:
            continue
        where, ratio = f"{row.name} ({effect.section}, {table.protocol})", row.facts.ratio
        if ratio is None:
            yield f"{where} has no dense model at the same protocol: submit that, too"
        elif ratio.high is not None and ratio.high < 1 and not _has(table, k, trained):
            yield (
                f"{where} has a perplexity of {ratio.value:.4g} times the dense model's "
                f"({ratio.low:.4g} to {ratio.high:.4g}) without training, which is impossible"
            )


def _row_with_seed(identity: Identity) -> str:
    seed = "" if identity.seed is None else f" seed {identity.seed}"
    return f"{identity.method} {identity.pattern} {identity.quantizer}{seed}"


def _remarks(records: Sequence[Record], published: Sequence[ResultSet]) -> Iterator[str]:
    """Yield what a reviewer must know and the rules do not refuse."""
    if not published:
        yield "No published results to compare with: run it in a checkout of the repository."
    scores: dict[float, Record] = {}
    for record in [*(r for one in published for r in one.records), *records]:
        value = submission_rules.perplexity_of(record)
        if value is not None:
            first = scores.setdefault(value, record)
            one, other = first.identity, record.identity
            if record in records and (one.method, one.seed) != (other.method, other.seed):
                names = [_row_with_seed(one), _row_with_seed(other)]
                yield f"Equal to the last bit: {' and '.join(names)}."
    for name, version in sorted(
        {(one["distribution"], one["version"]) for r in records for one in r.plugins}
    ):
        yield f"Made with the plug-in {name} {version}, which this review does not run."
