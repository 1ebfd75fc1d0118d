"""Results that other harnesses measured: read their folders, pair their questions by content, and
import them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.catalog import registry
from bench.comparing.foreign import ForeignResults, Pairing
from bench.comparing.result_set import ResultSet
from bench.parts.harnesses.evaluation import FAULTS, Evaluation, Harness, Question, check_size
from bench.results.derive import Items
from bench.results.identity import Identity, Protocol
from bench.results.items import require_readable
from bench.results.record import Item, ReadingRow, Record
from bench.results.store import Store
from bench.system import digests
from bench.system.cache import temporary_folder
from methods.contract.errors import UserError, first_line

Array = np.ndarray[Any, Any]


class HarnessResults(ForeignResults):
    """Folders of the harnesses of the catalog."""

    def owns(self, path: Path) -> bool:
        if not path.is_dir() or (path / "records").is_dir():
            return False
        return any(_find(name, path) for name in registry.names("harnesses"))

    def pair(self, a: Path, b: Path, *, whole: bool = False) -> Pairing:
        before, after = read(a), read(b)
        sides: tuple[list[_Side], list[_Side]] = ([], [])
        notes: list[str] = []
        for task in dict.fromkeys((*before, *after)):
            was, now = before.get(task), after.get(task)
            common: list[Question] = []
            obstacle = ""
            if was and now:
                common = sorted(set(was.scores) & set(now.scores))
                sentence = _describe_rest(was, now, len(common))
                if sentence:
                    notes.append(f"{task}: {sentence}")
                obstacle = (
                    sentence if not common or (whole and len(common) < len(was.scores)) else ""
                )
            for side, each in zip(sides, (was, now), strict=True):
                if each:
                    side.append(_Side(each, common or sorted(each.scores), obstacle))
        for task, each in (*before.items(), *after.items()):
            if each.left_out:
                notes.append(
                    f"{task}: {', '.join(sorted(each.left_out))} has no number for each question"
                )
        return Pairing(
            _result_set(a, sides[0]), _result_set(b, sides[1]), tuple(dict.fromkeys(notes))
        )

    @contextlib.contextmanager
    def as_results(self, folder: Path) -> Iterator[Path]:
        """Yield a temporary results folder. The row has the name of the folder."""
        with temporary_folder("elsewhere-") as parent:
            results = parent / folder.resolve().name
            import_folder(folder, results, model="", method=results.name, pattern="dense")
            yield results


def read(folder: Path) -> dict[str, Evaluation]:
    """Return the evaluations in a folder by task. The newest run of a task counts. Refuse several
    models."""
    found: dict[str, Evaluation] = {}
    models: set[str] = set()
    for name in registry.names("harnesses"):
        for results in sorted(_find(name, folder), key=lambda f: f.name):
            for evaluation in _read_file(name, results):
                if evaluation.about.get("model"):
                    models.add(evaluation.about["model"])
                known = found.setdefault(evaluation.task, evaluation)
                if evaluation.made >= known.made:
                    found[evaluation.task] = evaluation
    if len(models) > 1:
        raise UserError(
            f"{folder} has results of several models ({', '.join(sorted(models))}): name a folder "
            "of one"
        )
    if not found:
        if not folder.is_dir():
            raise UserError(f"{str(folder)!r} is no folder: check the path")
        harnesses = [
            registry.build("harnesses", name, Harness) for name in registry.names("harnesses")
        ]
        ways = "; ".join(f"{harness.title}: {harness.how}" for harness in harnesses)
        raise UserError(
            f"{folder} has no answers to single questions: measure again and keep them ({ways})"
        )
    return found


def _find(name: str, folder: Path) -> list[Path]:
    """Return the files with results of a harness."""
    harness = registry.build("harnesses", name, Harness)
    with registry.guarded(registry.lookup("harnesses", name)):
        return list(harness.find(folder))


def _read_file(name: str, results: Path) -> list[Evaluation]:
    """Read a file with results. Raise UserError for whatever a harness does not write."""
    harness = registry.build("harnesses", name, Harness)
    try:
        with registry.guarded(registry.lookup("harnesses", name)):
            found = list(harness.read(results))
        for one in found:
            check_size([one.task, one.version, one.settings, one.higher, one.about])
    except FAULTS as fault:
        reason = first_line(fault)[:120]
        raise UserError(
            f"{results} cannot be read as results of {harness.title} ({reason}): measure it again"
        ) from None
    return found


def import_folder(
    folder: Path, results: Path, *, model: str, method: str, pattern: str
) -> list[str]:
    """Write a record for each task of a folder, marked as made by its harness. Return the names of
    the tasks.

    model: name of the original; "" for the name that the harness wrote, if it did.
    """
    found = read(folder)
    made = []
    for task, evaluation in found.items():
        record, items = _record_of(
            evaluation, model or evaluation.about.get("model", ""), method, pattern
        )
        if not record.identity.model:
            raise UserError(f"{folder} does not name the model of {task}: name it with --model")
        try:
            require_readable(record, items)
        except (UserError, ValueError) as fault:
            raise UserError(f"{task} of {folder} cannot be a record: {first_line(fault)}") from None
        made.append((record, items))
    store = Store(results)
    for record, items in made:
        store.write(record, items)
    return list(found)


def _record_of(
    evaluation: Evaluation, model: str, method: str, pattern: str
) -> tuple[Record, tuple[Item, ...]]:
    questions, harness, about = sorted(evaluation.scores), evaluation.harness, evaluation.about
    columns = _columns(evaluation, questions)
    first = "acc" if "acc" in columns else next(iter(columns), "")
    totals = {name: list(total) for name, total in evaluation.totals.items()}
    content = digests.of(totals or [["/".join(q), evaluation.scores[q]] for q in questions])
    inputs = {
        "harness": harness,
        "task": evaluation.task,
        "model": model,
        "method": method,
        "content": content,
    }
    settings = {name: value for name, value in evaluation.settings.items() if value is not None}
    record = _record(
        evaluation,
        columns,
        inputs,
        {"model": model, "stages": (method,), "pattern": pattern},
        engine=harness,
        notes={"made_elsewhere": harness, "settings": settings, **about},
        provenance={"recorded": about.get("recorded"), "versions": {harness: about.get("version")}},
    )
    items = []
    for i, question in enumerate(questions):
        scores = {name: float(values[i]) for name, values in columns.items()}
        if scores:
            value = scores.pop(first)
            items.append(Item("/".join(question), question.document, value, 1.0, scores))
    return record, tuple(items)


def _describe_rest(was: Evaluation, now: Evaluation, paired: int) -> str:
    """Return which questions and settings differ, or "" if all questions pair and the settings are
    the same."""
    before = {question.document for question in was.scores.keys() - now.scores.keys()}
    after = {question.document for question in now.scores.keys() - was.scores.keys()}
    parts = []
    if before or after:
        parts.append(f"{paired:,} questions pair")
    if before & after:
        parts.append(f"{len(before & after):,} have another prompt or answer")
    if before - after:
        parts.append(f"{len(before - after):,} only before")
    if after - before:
        parts.append(f"{len(after - before):,} only after")
    for key in was.settings:
        if was.settings[key] != now.settings.get(key):
            parts.append(f"{key} {was.settings[key]} before and {now.settings.get(key)} after")
    return "; ".join(parts)


class _Side(NamedTuple):
    """One task of one folder: the questions that count, and why none pairs, or ""."""

    evaluation: Evaluation
    questions: list[Question]
    obstacle: str


def _result_set(path: Path, sides: list[_Side]) -> ResultSet:
    tables: dict[str, Items] = {}
    records = []
    for evaluation, questions, obstacle in sides:
        columns = _columns(evaluation, questions)
        inputs = {"folder": str(path), "task": evaluation.task}
        whose = {"model": "", "stages": (), "pattern": ""}
        records.append(_record(evaluation, columns, inputs, whose, reason=obstacle))
        ids = np.array(["/".join(q) for q in questions])
        tables[records[-1].key] = Items(ids, ids, np.ones(len(ids)), columns)
    return ResultSet(str(path), tuple(records), lambda record: tables[record.key])


def _columns(evaluation: Evaluation, questions: list[Question]) -> dict[str, Array]:
    """Return the scores of the questions by metric, of the metrics that all of them have."""
    scores = [evaluation.scores[question] for question in questions]
    out: dict[str, Array] = {}
    if not scores:
        return out
    for name in scores[0]:
        if all(name in of_question for of_question in scores):
            out[name] = np.array([of_question[name] for of_question in scores])
    return out


def _record(
    evaluation: Evaluation,
    columns: dict[str, Array],
    inputs: dict[str, str],
    whose: dict[str, Any],
    engine: str = "",
    **fields: Any,
) -> Record:
    """Return the record of a task. columns: scores by metric; whose: model, stages and pattern of
    the identity."""
    protocol = Protocol(name=evaluation.task, version=evaluation.version or None, engine=engine)
    return Record(
        key=digests.of(inputs),
        identity=Identity(
            measure="fidelity" if evaluation.totals else "zeroshot",
            protocol=protocol,
            **whose,
        ),
        status="ok",
        readings=[
            *(
                _reading(name, values, evaluation.higher.get(name, True))
                for name, values in columns.items()
            ),
            *(ReadingRow(metric=name, **one._asdict()) for name, one in evaluation.totals.items()),
        ],
        key_inputs=inputs,
        **fields,
    )


def _reading(name: str, values: Array, higher: bool) -> ReadingRow:
    n = len(values)
    stderr = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    better = "higher" if higher else "lower"
    return ReadingRow(
        metric=name, value=math.fsum(values) / n, unit="1", better=better, stderr=stderr, n=n
    )
