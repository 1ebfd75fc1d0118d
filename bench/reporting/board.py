"""The leaderboard of a model: all rows measured under one protocol, from all results folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from bench.comparing.known_variance import KnownVariance, learn
from bench.comparing.result_set import ResultSet
from bench.reporting import from_records, origins, pairwise, profile, searches, words
from bench.reporting.cost import BUILT, CostIndex, RowCost
from bench.reporting.dense_comparison import DenseComparison, leading_column
from bench.reporting.derived_columns import CONTROL, all_columns, leading_columns
from bench.reporting.facts import Facts, RowNumbers
from bench.reporting.folding import fold
from bench.reporting.hardware import pattern_label
from bench.reporting.labelled_rows import is_file, labelled_rows
from bench.reporting.protocol import BoardProtocol, group_by_protocol, line_of
from bench.reporting.table import ColumnKey, PivotLine, pivot
from bench.reporting.view import ReportSection, Table, TableColumn, TableRow
from bench.results import metrics, reproduce
from bench.results.identity import Identity
from bench.results.record import Record
from bench.results.recount import BITS_PER_PARAMETER
from bench.results.rows import latest, outdated
from bench.system.grouping import group_by
from bench.system.text import amount

BROKEN = "pattern broken"


def merge(results: Sequence[ResultSet]) -> ResultSet:
    """Merge folders: keep the newest record of each identity, with its scores."""
    owners = {id(record): one for one in results for record in one.records}
    kept = latest(record for one in results for record in one.records)
    return ResultSet("all folders", tuple(kept), lambda record: owners[id(record)].items(record))


def make_sections(
    results: Sequence[ResultSet], known: KnownVariance | None = None
) -> list[ReportSection]:
    """Make a section for each model, the largest first, with a table for each protocol, the main
    one first.

    known: noise of numbers, by default from these results.
    """
    merged = merge(results)
    folders = {id(record): one.name for one in results for record in one.records}
    credits, weights = {}, dict[str, str]()
    for one in results:
        stated = searches.read_about(Path(one.name))
        credits[one.name] = stated.credit
        weights |= stated.weights_of(one.records)
    models = group_by(merged.records, lambda record: record.identity.model)
    sections = []
    for model, records in models.items():
        records, left_out = without_outdated(records)
        of_model = merged.only(model, records)
        tables = [b.make_table() for b in boards_of(model, of_model, known=known)]
        about, named = {}, set()
        for record in records:
            folder = folders[id(record)]
            about[record.stem] = from_records.describe_record(
                record, folder, credits[folder], weights.get(record.artifact, "")
            )
            named.add(credits[folder])
        parts = [from_records.describe_records(records)]
        if named - {""}:
            parts.append(f"with results of {', '.join(sorted(named - {''}))}")
        if left_out:
            parts.append(left_out)
        sections.append(ReportSection(model, " · ".join(parts), tuple(tables), records=about))
    return sorted(sections, key=lambda s: (-_size(models[s.title]), s.title))


def without_outdated(records: Sequence[Record]) -> tuple[list[Record], str]:
    """Return the records without those that are `outdated`, and a sentence on these, "" if none
    is."""
    old = outdated(records)
    if not old:
        return list(records), ""
    first, sentence = old[0]
    left_out = {id(record) for record, _ in old}
    kept = [record for record in records if id(record) not in left_out]
    return (
        kept,
        f"{amount(len(old), 'older record')} left out (in record {first.short_key} {sentence})",
    )


def _size(records: Iterable[Record]) -> float:
    """Return the number of a model's parameters; 0 if no record has it."""
    readings = (x for r in records for x in r.readings if x.metric == "parameters")
    return max((x.value for x in readings if x.value is not None), default=0.0)


def boards_of(
    model: str,
    results: ResultSet,
    device: str = "",
    known: KnownVariance | None = None,
    by_calibration: bool = True,
) -> Iterator[Board]:
    """Yield a board for each protocol of a model's records, the main one first.

    results: without records that are `outdated`. device: part of the name of the machine on which a
    speedup counts. known: noise of numbers, by default from `results`. by_calibration: as in
    `group_by_protocol`.
    """
    results = results.with_cache()
    known = known or learn(results)
    costs = CostIndex(results.records)
    groups = _add_speeds(group_by_protocol(results.records, by_calibration))
    for protocol, records in groups.items():
        yield Board(model, protocol, records, results, costs, known, device)


def _add_speeds(groups: Mapping[BoardProtocol, list[Record]]) -> dict[BoardProtocol, list[Record]]:
    """Add speeds to the rows of the same artifact, on whatever device its quality was measured.

    A group without a text is left out if other groups have all of its records.
    """

    def artifact(record: Record) -> tuple[Any, ...]:
        return line_of(record)[:-1]  # the device is the last label

    every = chain.from_iterable(groups.values())
    speeds = {r.key: r for r in every if r.identity.subject == "timing"}
    out: dict[BoardProtocol, list[Record]] = {}
    placed: set[str] = set()
    for protocol, records in groups.items():
        if protocol.text:
            artifacts, keys = {artifact(r) for r in records}, {r.key for r in records}
            extra = [r for key, r in speeds.items() if key not in keys and artifact(r) in artifacts]
            out[protocol] = [*records, *extra]
            placed |= {r.key for r in out[protocol]}
    for protocol, records in groups.items():
        keys = {r.key for r in records}
        if not protocol.text and keys - placed:
            out[protocol] = records
    return out


class Board:
    """The leaderboard of a model under one protocol."""

    def __init__(
        self,
        model: str,
        protocol: BoardProtocol,
        records: list[Record],
        results: ResultSet,
        costs: CostIndex,
        known: KnownVariance,
        device: str = "",
    ) -> None:
        self.model, self.protocol, self.device = model, protocol, device
        self.results, self.costs, self.known = results, costs, known
        self.records = {r.stem: r for r in records}
        self.rows = [
            _named_speed(row, self.records, protocol.device) for row in labelled_rows(records)
        ]
        self.pivot = pivot(self.rows, all_metrics=True)
        self.derived = all_columns()
        measures = {record.identity.measure for record in records}
        self.leading = leading_columns(measures, self.derived)

    def fits(self, protocol: str, device: str) -> bool:
        """Return whether the label contains every part, and whether quality or a speed was measured
        on the device.

        protocol: parts of a label, separated by commas.
        """
        own = {part.strip() for part in self.protocol.label.split(",")}
        own |= {part.split("@")[0] for part in own}
        wanted = {part.strip() for part in protocol.split(",")} - {""}
        speeds = (c[1] or "" for c in self.pivot.columns if c[0] == "speedup")
        on_device = device in ("", self.protocol.device) or any(
            device.lower() in name.lower() for name in speeds
        )
        return on_device and wanted <= own

    def is_quality(self, column: TableColumn) -> bool:
        """Return whether rows are picked by this column."""
        return column.metric in metrics.by_quality(c[0] for c in self.pivot.columns)[:1]

    def make_table(
        self, paired: Callable[[TableColumn], bool] = lambda column: True, *, seeds: bool = True
    ) -> Table:
        """Make the table: all rows in order, with ranks, intervals and facts.

        paired: as in pairwise.add_intervals. seeds: add a row for each seed of a row with several.
        """
        columns = self._columns()
        lines, parents = fold(self.pivot.lines, self.pivot.columns)
        names = ["method", "pattern", "quantizer"]
        for name in ("calibration", "training"):
            texts = {_text_name(line, name) for line in lines}
            if len(texts - {""}) > 1:
                names.append(name)
        keys = [(c.metric, c.protocol, measure) for c, measure in columns]
        rows = []
        for line, parent in zip(lines, parents, strict=True):
            row = from_records.make_row(line, keys, self.records)
            labels = _labels(row, line, names)
            if any(origins.is_dirty(record) for record in self._records_of(line)):
                labels = (f"{labels[0]} {origins.MARK}", *labels[1:])
            rows.append(replace(row, labels=labels, part_of=parent))
        out = Table(
            self.model,
            tuple(names),
            tuple(c for c, _ in columns),
            tuple(rows),
            protocol=self.protocol.label,
        )
        origin = origins.describe(self.records.values())
        out = replace(out, remarks=(*self.pivot.notes, *filter(None, [origin])))
        out = pairwise.add_intervals(out, self.records, self.results, paired, self.known)
        out = self._with_derived(out, lines)
        return self._show_leading(self._with_seeds(out, lines, keys) if seeds else out)

    def _columns(self) -> list[tuple[TableColumn, str]]:
        """Return all columns in order, each with its measure."""
        # The profile shows single tasks of tracks. A column of theirs is only for what failed.
        failed = {(r["protocol"], r["measure"]) for r in self.rows if r["value"] is None}
        keys = [
            c
            for c in self.pivot.columns
            if c[2] != profile.MEASURE or c[0] == metrics.MEAN_BITS or c[1:] in failed
        ]
        measured = [(from_records.make_column(key, self.rows), key[2]) for key in keys]
        derived = [column.on(self.protocol.text) for column in self.derived]
        both = [*measured, *((column, "") for column in derived)]
        place = {metric: at for at, metric in enumerate(self.leading)}
        return sorted(both, key=lambda one: place.get(one[0].metric, len(place)))

    def _with_derived(self, out: Table, lines: Sequence[PivotLine]) -> Table:
        """Fill the cells of derived columns and of the worst task, and add facts to each row."""
        comparison = DenseComparison(out, self.records, self.results, self.known, self.device)
        numbers = [_numbers(out, k) for k in range(len(out.rows))]
        dense: list[Record] = []
        numbers_of_dense: dict[str, float] = {}
        if comparison.dense is not None:
            dense = self._records_of(lines[comparison.dense])
            numbers_of_dense = numbers[comparison.dense]
        identities = [line.group[0]["identity"] for line in lines]
        controls = _find_controls(identities)
        rows = []
        for k, (row, line) in enumerate(zip(out.rows, lines, strict=True)):
            cost = self.costs.of_row(dict.fromkeys(r["identity"] for r in line.group))
            facts = replace(
                self._facts(out, k, numbers[k], comparison, cost), flips=comparison.flips(k)
            )
            control = controls.get(identities[k].training)
            if control is not None:
                facts = replace(facts, control_loss=comparison.loss(k, control))
            if k != comparison.dense:
                own = self._records_of(line)
                losses = profile.compare(dense, own, self.results, self.known.draws)
                track_loss, worst_track = profile.worst(losses)
                facts = replace(
                    facts, tracks=losses, track_loss=track_loss, worst_track=worst_track
                )
            cells = list(row.cells)
            for c, (cell, column) in enumerate(zip(row.cells, out.columns, strict=True)):
                if column.derived:
                    cells[c] = column.derived.cell(RowNumbers(facts, numbers[k], numbers_of_dense))
                elif (
                    c == comparison.drop_column
                    and cell
                    and facts.drop
                    and facts.drop.low is not None
                ):
                    text = f"{words.points(*facts.drop.parts)} {facts.worst_task}"
                    cells[c] = replace(cell, text=text, value=facts.drop.value, spread=None)
            rows.append(_marked(replace(row, cells=tuple(cells), facts=facts)))
        return replace(out, rows=tuple(rows))

    def _records_of(self, line: PivotLine) -> list[Record]:
        names = dict.fromkeys(row["record"] for row in line.group)
        return [self.records[name] for name in names if name in self.records]

    def _facts(
        self,
        out: Table,
        k: int,
        numbers: Mapping[str, float],
        comparison: DenseComparison,
        cost: RowCost | None,
    ) -> Facts:
        row = out.rows[k]
        drop, task = comparison.worst_drop(k)
        about = [self.records[name] for cell in row.cells if cell for name in cell.records]
        built = [r for r in about if BUILT in r.cost] or about
        make, export = "", ""
        if is_file(row.filters):
            make = f"bench pull {row.filters['model']}"
        elif built:
            make, export = reproduce.prune_and_export(built[0])
        costs = {} if cost is None else asdict(cost)
        return Facts(
            compressed=row.is_quantized or row.filters["pattern"] != "dense",
            broken=bool(numbers.get("violated_groups")),
            bytes=numbers.get(metrics.SIZE),
            bits_per_parameter=numbers.get(BITS_PER_PARAMETER),
            bits=numbers.get("bits_per_weight"),
            loss=comparison.loss(k),
            drop=drop,
            worst_task=task,
            speedup=comparison.speedup(k),
            make=make,
            export=export,
            **costs,
        )

    def _with_seeds(
        self, out: Table, lines: Sequence[PivotLine], keys: Sequence[ColumnKey]
    ) -> Table:
        """Add a row for each seed to the rows that are means over several seeds."""
        rows = list(out.rows)
        for k, line in enumerate(lines):
            seeds = sorted({r["seed"] for r in line.group if r["seed"] is not None})
            if len(seeds) < 2:
                continue
            for seed in seeds:
                one = PivotLine(line.labels, [r for r in line.group if r["seed"] == seed])
                row = from_records.make_row(one, keys, self.records)
                labels = (f"{row.filters['method']}, seed {seed}", *out.rows[k].labels[1:])
                rows.append(replace(row, name=f"{row.name}, seed {seed}", labels=labels, part_of=k))
        ranks = {c: (*r, *[""] * (len(rows) - len(r))) for c, r in out.ranks.items()}
        return replace(out, rows=tuple(rows), ranks=ranks)

    def _show_leading(self, out: Table) -> Table:
        leading = set(self.leading)
        if any(c.metric == "mean_acc" for c in out.columns):
            leading -= {"acc"}
        if any(r.facts and r.facts.tracks for r in out.rows):
            leading -= {"worst_drop"}
        best = {
            c.metric: leading_column(out, c.metric) for c in out.columns if c.definition.one_column
        }
        columns = []
        for c, column in enumerate(out.columns):
            if column.metric == "violated_groups":
                shown = any(r.facts and r.facts.broken for r in out.rows)
            elif column.derived:
                shown = any(r.cells[c] for r in out.rows)
            else:
                shown = column.metric in leading and best.get(column.metric, c) == c
            columns.append(replace(column, shown=shown))
        # Speeds alone, with no dense model beside them.
        if not any(column.shown for column in columns):
            columns = [c if c.derived else replace(c, shown=None) for c in columns]
        return replace(out, columns=tuple(columns))


def _find_controls(identities: Sequence[Identity]) -> dict[object, int]:
    """Return the row of the control by training: the one with the usual settings, or else the
    best."""
    controls: dict[object, int] = {}
    for k, identity in enumerate(identities):
        if len(identity.stages) != 1 or identity.quantizer != "none":
            continue
        [stage] = identity.stages
        is_control = stage.split(":")[0] == CONTROL
        if is_control and (identity.training not in controls or stage == CONTROL):
            controls[identity.training] = k
    return controls


def _named_speed(row: dict[str, Any], records: Mapping[str, Record], device: str) -> dict[str, Any]:
    """Add the machine to the protocol of a speed, because speeds of two machines share no column.

    device: device of the rows in the same table.
    """
    if row["identity"].subject != "timing":
        return row
    protocol = row["protocol"]
    if row["value"] is not None:
        where = filter(None, (row["device"], records[row["record"]].processor_kind))
        protocol = f"{protocol} on {', '.join(where)}"
    return row | {"protocol": protocol, "device": device}


def _text_name(line: PivotLine, column: str) -> str:
    """Return what tells a row's text from those of other rows, beside the budget."""
    identity: Identity = line.group[0]["identity"]
    training, calibration = identity.training, identity.calibration
    parts = []
    if column == "training" and training:
        parts = [training.data]
        if training.batch:
            parts.append(f"batch {training.batch}")
        if training.recipe:
            parts.append(f"recipe {training.recipe}")
    elif column == "calibration" and calibration:
        parts = [calibration.data]
        if calibration.all_experts:
            parts.append("all experts")
    return ", ".join(parts)


def _labels(row: TableRow, line: PivotLine, names: Sequence[str]) -> tuple[str, ...]:
    own = {
        "method": line.labels[0],
        "pattern": pattern_label(row.filters["pattern"], row.filters["quantizer"] or "none"),
        "quantizer": row.filters["quantizer"] or "none",
    }
    for name in names:
        if name not in own:
            own[name] = _text_name(line, name)
    return tuple(own[name] for name in names)


def _marked(row: TableRow) -> TableRow:
    """Mark a row whose weights break its pattern."""
    if not (row.facts and row.facts.broken):
        return row
    method, pattern, *others = row.labels
    return replace(
        row, name=f"{row.name} ({BROKEN})", labels=(method, f"{pattern}, {BROKEN}", *others)
    )


def _numbers(out: Table, row: int) -> dict[str, float]:
    """Return a row's numbers by metric, of the first column that has one."""
    numbers: dict[str, float] = {}
    for column, cell in zip(out.columns, out.rows[row].cells, strict=True):
        if cell and cell.value is not None:
            numbers.setdefault(column.metric, cell.value)
    return numbers
