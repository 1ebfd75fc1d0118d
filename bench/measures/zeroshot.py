"""Zero-shot accuracy: one task of lm-eval, question by question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bench.inputs import tasks, tracks
from bench.inputs.task_yaml import most_generated, read_task
from bench.measures.contract import (
    MeasureContext,
    MeasureSettings,
    PlanContext,
    Planned,
    Readings,
    RunSettings,
)
from bench.measures.state_check import StateCheck
from bench.results import metrics
from bench.results.identity import PROMPT, Protocol, describe_prompt
from bench.results.record import Item, Reading
from bench.system.suggest import shorten
from bench.system.validation import MAX_TOKENS, Count, Extent, count_of
from methods.contract.errors import UserError
from methods.contract.measure_info import MeasureInfo, Metric
from methods.contract.method import Needs

if TYPE_CHECKING:
    from torch import nn

    from bench.inputs.lmeval import Sample


class ZeroshotSettings(MeasureSettings):
    """Execution of the tasks of lm-eval."""

    table: ClassVar[str] = "zeroshot"
    tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    """Tokens in a forward pass, with padding. Default: 1024 on a CPU, 8192 on a GPU. It is part of
    the key, because it changes rounding."""
    batch: Count = 16
    """Requests in a forward pass of a task that lm-eval runs itself, for example with generated
    answers."""
    limit: Extent = None
    """Number of questions of each task, from the first, or "all". A task with fewer is asked whole.
    Default: 200 for `tiny`, all for other models."""
    include_path: Path | None = None
    """Folder with YAML files of tasks. A file can also be named itself: `--tasks my_task.yaml`."""
    num_fewshot: int | None = Field(default=None, ge=0, le=1000)
    """Number of examples before each question. Default: that of the task."""
    apply_chat_template: bool = False
    """Write each question with the model's chat template."""
    system_instruction: str = Field(default="", max_length=10_000)
    """Text of the system's turn, or text before each question without a chat template."""
    gen_kwargs: str = Field(default="", max_length=1000)
    """Arguments of generation as in lm-eval, for example `temperature=0,max_gen_toks=64`."""


@dataclass(frozen=True)
class Zeroshot:
    """Accuracy on tasks of lm-eval, one measurement per task.

    Items: acc of each question, 0 or 1, or its first metric if it has no acc; other metrics by
    their names.
    """

    name: ClassVar[str] = "zeroshot"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric(
                "mean_acc",
                "1",
                "higher",
                order=50,
                quality=2,
                on_board=True,
                one_column=True,
                in_records=False,
            ),
            Metric(
                "worst_drop",
                "1",
                "lower",
                order=51,
                on_board=True,
                one_column=True,
                in_records=False,
            ),
            # Twice the noise of top-1 agreement of rows of tiny with three seeds.
            Metric(
                "acc",
                "1",
                "higher",
                "proportion",
                0.0,
                1.0,
                aggregation="mean",
                has_floor=True,
                order=52,
                quality=3,
                on_board=True,
                margin=0.01,
                tolerance=1e-3,
                seed_noise=0.005,
                public_name="accuracy",
            ),
            Metric(
                "acc_norm",
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
                "corpus_bits_per_byte",
                "bits/byte",
                "lower",
                "bits/byte",
                0.0,
                aggregation="window mean",
                order=40,
                margin=0.01,
            ),
        ),
        other_metrics=True,
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    settings: ClassVar[type[ZeroshotSettings]] = ZeroshotSettings
    imports: ClassVar[tuple[str, ...]] = ("bench.inputs.lmeval",)
    task: str
    file: str
    """YAML file of the task in lm-eval. Empty: a built-in task."""
    version: str
    harness: str
    """Version of lm-eval."""
    batch: int
    tokens: int
    limit: int | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    system_instruction: str = ""
    gen_kwargs: str = ""

    @classmethod
    def check(cls, run: RunSettings, *, fetch: bool) -> None:
        """Raise UserError if the name of a task is unknown, or only the measure answers can read
        it, or it is for 0 examples."""
        wanted = run.settings_of(ZeroshotSettings)
        # lm-eval leaves out empty parts, too.
        for argument in filter(None, wanted.gen_kwargs.split(",")):
            name, equals, _ = argument.partition("=")
            if not equals or not name.strip():
                raise UserError(
                    f"invalid zeroshot.gen_kwargs={wanted.gen_kwargs}: give NAME=VALUE, "
                    "comma-separated"
                )
        found = tasks.expand(run.tasks, wanted.include_path)
        if wanted.gen_kwargs and not any(
            read_task(name, file).generates for name, file in found.items()
        ):
            raise UserError(
                f"zeroshot.gen_kwargs={wanted.gen_kwargs} has no effect on tasks without "
                f"generated answers ({shorten(', '.join(found))}): leave it out"
            )
        for name, file in found.items():
            if wanted.num_fewshot and file and read_task(name, file).shots == 0:
                raise UserError(
                    f"task {name} is for 0 examples, so zeroshot.num_fewshot={wanted.num_fewshot} "
                    "cannot be used: leave it out"
                )
        named = [name for name in run.tasks if tracks.is_track(name)]
        if named and "answers" not in run.measures:
            raise UserError(
                f"{named[0]} is read by the measure answers: add it to --measures, or leave "
                f"{named[0]} out"
            )

    @classmethod
    def plan(cls, context: PlanContext) -> Iterator[Planned]:
        wanted, data_dir = context.run.settings_of(ZeroshotSettings), context.run.data_dir
        tokens = wanted.tokens or (1024 if context.devices[0] == "cpu" else 8192)
        limit = count_of(wanted.limit, context.facts.quick.questions)
        prompt = {name: getattr(wanted, name) for name in PROMPT}
        prompt = {name: value for name, value in prompt.items() if value not in (None, False, "")}
        if wanted.apply_chat_template and context.facts.tokenizer.lacks_template:
            raise UserError(
                f"{context.facts.name} has no chat template: leave zeroshot.apply_chat_template out"
            )
        context.require_tokenizer()
        for name, file in tasks.expand(context.run.tasks, wanted.include_path).items():
            task = read_task(name, file)
            config: dict[str, Any] = {
                "task": name,
                "file": file,
                "version": task.version,
                "harness": version("lm_eval"),
            }
            config |= {"tokens": tokens, "batch": wanted.batch, "limit": limit} | prompt
            if context.fetch:
                content = tasks.ensure(task, data_dir)
            else:
                content = tasks.data_digest(task, data_dir)
            shots = task.shots if wanted.num_fewshot is None else wanted.num_fewshot
            generates = task.generates and most_generated(wanted.gen_kwargs, task.generates)
            tokens_read = tasks.count_tokens(task, data_dir, limit, shots or 0, generates)
            yield Planned(config, content, {"tokens": tokens_read})

    @property
    def protocol(self) -> Protocol:
        prompt = describe_prompt(*(getattr(self, name) for name in PROMPT))
        return Protocol(name=self.task, version=self.version, limit=self.limit, prompt=prompt)

    @property
    def estimated_tokens(self) -> int:
        return tasks.estimate_tokens(self.task, self.limit)

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Compute the task's metrics. Raise Diverged if the model computes NaN."""
        from bench.inputs import lmeval  # imports lm_eval
        from bench.measures import packed_scoring  # imports torch

        task = read_task(self.task, self.file)
        tasks.ensure(task, context.data_dir)
        loaded = model()
        obstacle = packed_scoring.find_obstacle(loaded)
        count, check = packed_scoring.TokenCount(loaded), StateCheck(loaded)
        scores = lmeval.evaluate(
            loaded,
            context.tokenizer(),
            task,
            tasks.data_folder(task, context.data_dir),
            self.batch,
            self.limit,
            context.progress,
            None if obstacle else partial(packed_scoring.score, loaded, capacity=self.tokens),
            lmeval.Prompt(
                self.num_fewshot, self.apply_chat_template, self.system_instruction, self.gen_kwargs
            ),
        )
        check.require_numbers("the model")
        questions = len(scores.samples)
        values = tuple(
            Reading(
                s.metric,
                s.value,
                metrics.find(s.metric).unit or "1",
                "higher" if s.higher else "lower",
                stderr=s.stderr,
                n=questions,
            )
            for s in scores.scores
        )
        notes: dict[str, Any] = {
            "data": task.hub or "wiki-mini",
            "revision": tasks.revision(task, context.data_dir),
            "engine": f"lm-eval: {obstacle or ', '.join(scores.left)}" if scores.left else "packed",
        }
        if scores.guesses:
            notes |= dict(zip(("chance", "majority"), scores.guesses, strict=True))
        items = _items(scores.samples, builtin=self.task in tasks.BUILTIN_TASKS)
        return Readings(values, items, tokens=count.tokens, notes=notes)


def _items(samples: tuple[Sample, ...], builtin: bool) -> tuple[Item, ...]:
    """Return items named by the document's hash, and a number if the document occurs again.

    Built-in tasks cluster by article.
    """
    names = list(samples[0].scores) if samples else []
    if not names:
        return ()
    first = "acc" if "acc" in names else names[0]
    counts: Counter[str] = Counter()
    items = []
    for sample in samples:
        name = sample.hash
        if counts[sample.hash]:
            name += f"#{counts[sample.hash]}"
        counts[sample.hash] += 1
        cluster = str(sample.document["article"]) if builtin else name
        others = {m: sample.scores[m] for m in names if m != first}
        items.append(Item(name, cluster, sample.scores[first], sample.weight, others))
    return tuple(items)
