"""Results that lm-eval or lighteval measured: read their folders, and pair their questions by content."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.compare.result_set import ResultSet
from bench.results.derive import Items
from bench.results.identity import Identity, Protocol
from bench.results.record import Item, ReadingRow, Record
from bench.results.store import Store
from bench.system import digests
from bench.system.provenance import format_time
from methods.errors import UserError

MAX_TIME = 2**33
"""Largest time in seconds since 1970 that is no error."""
MAX_LINE = 2**24
"""Largest line of a file of samples in bytes."""
LOG_SAMPLES = "run lm_eval with --log_samples, which writes the answer to each question"


class Question(NamedTuple):
    """Content of a question: digests of the document, of the prompt and of the right answer."""

    document: str
    prompt: str
    target: str


@dataclass
class Evaluation:
    """One task as a harness measured it."""

    task: str
    version: str
    settings: Mapping[str, Any]
    higher: dict[str, bool] = field(default_factory=dict)
    """Direction of each metric."""
    scores: dict[Question, dict[str, float]] = field(default_factory=dict)
    """Scores of each question by metric. A question that occurs again has a number after its document."""
    left_out: set[str] = field(default_factory=set)
    """Metrics without a number for each question."""

    harness: str = "lm-eval"
    about: Mapping[str, str] = field(default_factory=dict)
    """Name of the model, version of the harness, and time, as far as the harness wrote them."""


class Pairing(NamedTuple):
    """Two result sets with the same questions, and what could not be paired."""

    before: ResultSet
    after: ResultSet
    notes: tuple[str, ...]


def is_elsewhere(path: Path) -> bool:
    """Return whether a folder has results of lm-eval or lighteval."""
    return path.is_dir() and not (path / "records").is_dir() and next(_results_files(path), None) is not None


def read(folder: Path) -> dict[str, Evaluation]:
    """Return the evaluations in a folder by task. The newest run of a task counts.

    Raises:
        UserError: a file is damaged, or there are no answers to single questions.
    """
    found: dict[str, Evaluation] = {}
    for results in sorted(_results_files(folder), key=lambda f: f.name):
        about = _read_json(results)
        lighteval = "config_general" in about
        found |= dict(_read_lighteval(results, about) if lighteval else _read_lm_eval(results, about))
    if not found:
        raise UserError(f"{folder} has no answers to single questions: {LOG_SAMPLES}")
    return found


def _results_files(folder: Path) -> Iterator[Path]:
    yield from (file for file in folder.rglob("results_*.json") if file.is_file())


def _read_json(file: Path) -> dict[str, Any]:
    try:
        about = json.loads(file.read_bytes())
        if isinstance(about, dict) and isinstance(about.get("results"), dict):
            return about
        raise ValueError("it has no results")
    except (OSError, ValueError, RecursionError) as fault:
        raise UserError(f"{file} cannot be read as results of a harness ({fault}): measure it again") from None


def _read_lm_eval(results: Path, about: Mapping[str, Any]) -> Iterator[tuple[str, Evaluation]]:
    stamp = results.stem.removeprefix("results_")
    for task in about["results"]:
        file = results.parent / f"samples_{task}_{stamp}.jsonl"
        # A group has results and no questions.
        if file.is_file():
            yield task, _fill(_evaluation(task, about), file)


def _evaluation(task: str, about: Mapping[str, Any]) -> Evaluation:
    def of(key: str) -> Any:
        value = about.get(key)
        return value.get(task) if isinstance(value, dict) else None

    config = about.get("config") if isinstance(about.get("config"), dict) else {}
    settings = {"shots": of("n-shot"), "chat template": about.get("chat_template_sha")}
    settings |= {
        "system instruction": about.get("system_instruction_sha"),
        "gen_kwargs": (config or {}).get("gen_kwargs"),
    }
    higher = of("higher_is_better") or {}
    return Evaluation(
        task,
        str(of("versions")),
        settings,
        {str(k): v is not False for k, v in higher.items()},
        about=_facts(about.get("model_name"), about.get("lm_eval_version"), about.get("date")),
    )


def _facts(model: Any, version: Any, date: Any) -> dict[str, str]:
    """Return facts for a record. Of the path of a model only the name is kept, because a path tells about a machine."""
    facts = {"model": Path(str(model)).name if model else "", "version": str(version or "")}
    if isinstance(date, int | float) and 0 < date < MAX_TIME:
        facts["recorded"] = format_time(date)
    return facts


def _fill(evaluation: Evaluation, file: Path) -> Evaluation:
    """Read the lines of a file of samples: one for each question and filter."""
    seen: defaultdict[str, Counter[Question]] = defaultdict(Counter)
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if len(line) > MAX_LINE:
                    raise ValueError(f"{len(line):,} bytes")
                row = json.loads(line)
                question, part = _question(row), str(row.get("filter", "none"))
                metrics = row.get("metrics") or [k for k in evaluation.higher if k in row]
                named = {m if part == "none" else f"{m}_{part}": (m, row[m]) for m in metrics}
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
                raise UserError(f"{file} line {number} is no sample of lm-eval ({fault}): measure it again") from None
            again = seen[part][question]
            seen[part][question] += 1
            if again:
                question = question._replace(document=f"{question.document}#{again}")
            scores = evaluation.scores.setdefault(question, {})
            for name, (metric, value) in named.items():
                evaluation.higher.setdefault(name, evaluation.higher.get(metric, True))
                if isinstance(value, int | float) and math.isfinite(value):
                    scores[name] = float(value)
                else:
                    evaluation.left_out.add(name)
    return evaluation


def _question(row: Mapping[str, Any]) -> Question:
    """Return the digests that lm-eval wrote, or those of the content."""
    names = (("doc_hash", "doc"), ("prompt_hash", "arguments"), ("target_hash", "target"))
    return Question(*(str(row.get(known) or digests.of(row[content])) for known, content in names))


def _read_lighteval(results: Path, about: Mapping[str, Any]) -> Iterator[tuple[str, Evaluation]]:
    """Read the details that lighteval keeps beside its results: details/MODEL/DATE/details_TASK_DATE.parquet."""
    import pandas

    stamp = results.stem.removeprefix("results_")
    root = next((p for p in results.parents if (p / "details").is_dir()), None)
    for file in sorted(root.rglob(f"details_*_{stamp}.parquet")) if root else ():
        task = file.stem.removeprefix("details_").removesuffix(f"_{stamp}")
        name, _, shots = task.rpartition("|")
        general = about["config_general"]
        facts = _facts(general.get("model_name"), general.get("lighteval_sha"), None)
        version = str((about.get("versions") or {}).get(task))
        found = Evaluation(name or task, version, {"shots": shots or None}, harness="lighteval", about=facts)
        counts: Counter[Question] = Counter()
        try:
            rows = pandas.read_parquet(file, columns=["doc", "metric"])
            for doc, metric in zip(rows["doc"], rows["metric"], strict=True):
                content = [digests.of(str(doc.get(key))) for key in ("query", "instruction", "gold_index")]
                choices = digests.of([str(c) for c in doc.get("choices", ())])
                question = Question(digests.of([content[0], choices]), digests.of(content[:2]), content[2])
                counts[question] += 1
                if counts[question] > 1:
                    question = question._replace(document=f"{question.document}#{counts[question] - 1}")
                found.scores[question] = {k: float(v) for k, v in metric.items() if isinstance(v, int | float)}
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as fault:
            raise UserError(f"{file} cannot be read as details of lighteval ({fault}): measure it again") from None
        found.higher = {name: True for scores in found.scores.values() for name in scores}
        yield found.task, found


def pair(a: Path, b: Path) -> Pairing:
    """Read two folders, and pair the questions of each task by content.

    Raises:
        UserError: see `read`.
    """
    before, after = read(a), read(b)
    sides: tuple[list[_Side], list[_Side]] = ([], [])
    notes: list[str] = []
    for task in dict.fromkeys((*before, *after)):
        was, now = before.get(task), after.get(task)
        if was is None or now is None:
            one, side = (was, 0) if was else (now, 1)
            assert one is not None
            sides[side].append(_Side(one, sorted(one.scores), ""))
            continue
        common = sorted(set(was.scores) & set(now.scores))
        sentence = _describe_rest(was, now, len(common))
        if sentence:
            notes.append(f"{task}: {sentence}")
        for side, each in enumerate((was, now)):
            sides[side].append(_Side(each, common or sorted(each.scores), "" if common else sentence))
    for task, each in (*before.items(), *after.items()):
        if each.left_out:
            notes.append(f"{task}: {', '.join(sorted(each.left_out))} has no number for each question")
    return Pairing(_result_set(a, sides[0]), _result_set(b, sides[1]), tuple(dict.fromkeys(notes)))


def import_folder(folder: Path, results: Path, *, model: str, method: str, pattern: str) -> list[str]:
    """Write a record for each task of a folder, marked as made by its harness. Return the names of the tasks.

    model: name of the original; "" for the name that the harness wrote.

    Raises:
        UserError: see `read`, or the model has no name.
    """
    store = Store(results)
    found = read(folder)
    for task, evaluation in found.items():
        record, items = _record_of(evaluation, model or evaluation.about.get("model", ""), method, pattern)
        if not record.identity.model:
            raise UserError(f"{folder} does not name the model of {task}: name it with --model")
        store.write(record, items)
    return list(found)


def _record_of(evaluation: Evaluation, model: str, method: str, pattern: str) -> tuple[Record, tuple[Item, ...]]:
    questions = sorted(evaluation.scores)
    side = _result_set(Path(), [_Side(evaluation, questions, "")])
    (shown,) = side.records
    columns = side.items(shown).columns
    first = "acc" if "acc" in columns else next(iter(columns), "")
    content = digests.of([["/".join(q), evaluation.scores[q]] for q in questions])
    inputs = {
        "harness": evaluation.harness,
        "task": evaluation.task,
        "model": model,
        "method": method,
        "content": content,
    }
    protocol = shown.identity.protocol.model_copy(update={"engine": evaluation.harness})
    identity = Identity(model=model, stages=(method,), pattern=pattern, measure="zeroshot", protocol=protocol)
    settings = {name: value for name, value in evaluation.settings.items() if value is not None}
    record = Record(
        key=digests.of(inputs),
        identity=identity,
        status="ok",
        readings=shown.readings,
        key_inputs=inputs,
        notes={"made_elsewhere": evaluation.harness, "settings": settings, **evaluation.about},
        provenance={
            "recorded": evaluation.about.get("recorded"),
            "versions": {evaluation.harness: evaluation.about.get("version")},
        },
    )
    items = tuple(
        Item(
            "/".join(q),
            q.document,
            float(columns[first][i]),
            1.0,
            {name: float(values[i]) for name, values in columns.items() if name != first},
        )
        for i, q in enumerate(questions)
    )
    return record, items if first else ()


def _describe_rest(was: Evaluation, now: Evaluation, paired: int) -> str:
    """Return which questions and settings differ, or "" if all questions pair and the settings are the same."""
    alone = [set(side.scores) - set(other.scores) for side, other in ((was, now), (now, was))]
    documents = [{q.document for q in some} for some in alone]
    both = documents[0] & documents[1]
    parts = []
    if any(alone):
        parts.append(f"{paired:,} questions pair")
        parts += [f"{len(both):,} have another prompt or answer"] if both else []
        parts += [
            f"{len(d - both):,} only {side}" for d, side in zip(documents, ("before", "after"), strict=True) if d - both
        ]
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
        first = evaluation.scores[questions[0]] if questions else {}
        names = [name for name in first if all(name in evaluation.scores[q] for q in questions)]
        columns = {name: np.array([evaluation.scores[q][name] for q in questions]) for name in names}
        identity = Identity(
            model="",
            stages=(),
            pattern="",
            measure="zeroshot",
            protocol=Protocol(name=evaluation.task, version=evaluation.version),
        )
        inputs = {"folder": str(path), "task": evaluation.task}
        readings = [_reading(name, values, evaluation.higher.get(name, True)) for name, values in columns.items()]
        record = Record(
            key=digests.of(inputs),
            identity=identity,
            status="ok",
            reason=obstacle,
            readings=readings,
            key_inputs=inputs,
        )
        records.append(record)
        ids = np.array(["/".join(q) for q in questions])
        tables[record.key] = Items(ids, ids, np.ones(len(ids)), columns)
    return ResultSet(str(path), tuple(records), lambda record: tables[record.key])


def _reading(name: str, values: np.ndarray[Any, Any], higher: bool) -> ReadingRow:
    n = len(values)
    return ReadingRow(
        metric=name,
        value=math.fsum(values) / n,
        unit="1",
        better="higher" if higher else "lower",
        stderr=float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0,
        n=n,
    )
