"""Fidelity along the answers that the dense model gives to the prompts of a task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.inputs import tracks, wikimini
from bench.inputs.bos import Bos
from bench.measures.contract import (
    MeasureContext,
    MeasureSettings,
    PlanContext,
    Planned,
    Readings,
    RunSettings,
)
from bench.measures.windowed import mean_and_stderr
from bench.results.identity import Protocol
from bench.results.record import Item, Reading
from bench.system.validation import Count
from methods.contract.errors import UserError
from methods.contract.measure_info import MeasureInfo, Metric
from methods.contract.method import Needs

if TYPE_CHECKING:
    from torch import nn

    from bench.measures.generation import Ids

DEFAULT_TASK = "wiki_continuation"
"""Task whose prompts are used if --tasks names no track. It is part of this package."""
VERSION = "1"
"""Version of the way prompts are made of questions."""


class OwnAnswerSettings(MeasureSettings):
    """Prompts that the dense model answers, for the measure own_answers."""

    table: ClassVar[str] = "own_answers"
    limit: Count = 50
    """Number of prompts of each task, the first questions."""
    tokens: Count = 64
    """Largest number of tokens in an answer."""


@dataclass(frozen=True)
class OwnAnswers:
    """KL along the dense model's own answers, tokens before the first other token, and share of
    answers that stay whole.

    The dense model answers each prompt greedily, once, and the answers stay in the cache. Every
    compressed model is then scored along these answers by one forward pass. It would give the same
    answer exactly if its most likely token is the answer's at each position. A tokenizer with a
    chat template asks the question as a user's message. Items: mean KL of each answer. Beside it:
    the other metrics, and KL and tokens by position in the answer.
    """

    name: ClassVar[str] = "own_answers"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric(
                "answer_kl", "nats/token", "lower", "nats/token", 0.0, aggregation="mean", order=31
            ),
            Metric(
                "first_divergence", "tokens", "higher", "tokens", 0.0, aggregation="mean", order=32
            ),
            Metric(
                "whole_answers", "1", "higher", "proportion", 0.0, 1.0, aggregation="mean",
                order=33,
            ),
        )
    )  # fmt: skip
    beside_dense: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs.NOTHING
    settings: ClassVar[type[OwnAnswerSettings]] = OwnAnswerSettings
    task: str
    limit: int
    tokens: int
    version: str = VERSION
    prompt: str = ""
    """Length of an answer and use of a chat template, in words."""
    bos: Bos = ""

    @classmethod
    def check(cls, run: RunSettings, *, fetch: bool) -> None:
        """Raise UserError for an unknown track."""
        tracks.expand(run.tasks)

    @classmethod
    def plan(cls, context: PlanContext) -> Iterator[Planned]:
        """Plan a measurement for each task of a track in --tasks, or else for DEFAULT_TASK. Raise
        UserError if the model has too few positions."""
        context.require_tokenizer()
        wanted = context.run.settings_of(OwnAnswerSettings)
        positions = context.facts.positions
        if positions is not None and wanted.tokens >= positions:
            raise UserError(
                f"own_answers.tokens={wanted.tokens} leaves no room for a prompt in the "
                f"{positions} positions of {context.facts.name}: use fewer"
            )
        prompt = f"{wanted.tokens} tokens"
        if not context.facts.tokenizer.lacks_template:
            prompt += ", chat template"
        for name in tracks.expand(context.run.tasks) or (DEFAULT_TASK,):
            if name == DEFAULT_TASK:
                content = wikimini.TASKS_DIGEST
            else:
                if context.fetch:
                    from bench.inputs import olmo_tracks  # imports pyarrow

                    olmo_tracks.ensure(name, context.run.data_dir)
                content = tracks.digest(name, context.run.data_dir)
            config = {"task": name, "limit": wanted.limit, "tokens": wanted.tokens}
            config |= {"version": VERSION, "prompt": prompt}
            if context.bos:
                config["bos"] = context.bos
            yield Planned(config, content)

    @property
    def protocol(self) -> Protocol:
        return Protocol(
            name=self.task,
            version=self.version,
            limit=self.limit,
            bos=self.bos,
            prompt=self.prompt,
        )

    @property
    def estimated_tokens(self) -> int:
        return 2 * self.limit * (self.tokens + 100)

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Score a model along the answers of the dense model.

        Raises:
            UserError: the questions cannot be read.
            Skipped: the model has another vocabulary.
        """
        from bench.parts.fidelity import greedy  # imports torch

        names, clusters, prompts = self.prompts(context)
        found = greedy.along_own_answers(model, context, prompts, self.tokens)
        items = tuple(
            Item(name, cluster, one.kl, 1.0, one.beside)
            for name, cluster, one in zip(names, clusters, found, strict=True)
        )
        values = [("answer_kl", [item.value for item in items])]
        for metric in ("first_divergence", "whole_answers"):
            values.append((metric, [item.beside[metric] for item in items]))
        readings = []
        for metric, numbers in values:
            mean, stderr = mean_and_stderr(numbers)
            readings.append(Reading(metric, mean, stderr=stderr, n=len(items)))
        tokens = sum(len(p) for p in prompts) + sum(one.tokens for one in found)
        return Readings(tuple(readings), items, tokens=2 * tokens)

    def prompts(self, context: MeasureContext) -> tuple[Sequence[str], Sequence[str], list[Ids]]:
        """Return names, clusters and token ids of the prompts."""
        from bench.measures.generation import as_user, encode  # imports torch

        names, clusters, texts = self._questions(context)
        chat = "chat" in self.prompt
        return names, clusters, encode(context.tokenizer(), as_user(texts), self.bos, chat)

    def _questions(
        self, context: MeasureContext
    ) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
        """Return names, clusters and texts of the prompts."""
        if self.task == DEFAULT_TASK:
            lines = (wikimini.FOLDER / f"{self.task}.jsonl").read_text(encoding="utf-8")
            rows = [json.loads(line) for line in lines.splitlines()[: self.limit]]
            ids = [str(i) for i in range(len(rows))]
            return ids, [row["article"] for row in rows], [row["context"] for row in rows]
        _, questions = tracks.read(self.task, context.data_dir, self.limit)
        texts = [question.contexts[0] for question in questions]
        return [q.id for q in questions], [q.cluster for q in questions], texts
