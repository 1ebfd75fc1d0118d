"""Zero-shot accuracy: one task of lm-eval, question by question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from bench.inputs import tasks
from bench.inputs.task_yaml import read_task
from bench.measures.contract import MeasureContext, Readings
from bench.results.identity import Protocol
from bench.results.record import Item, Reading
from methods.contract import Needs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.inputs.lmeval import Sample


@dataclass(frozen=True)
class Zeroshot:
    """Accuracy on tasks of lm-eval, one measurement per task.

    task: a task of lm-eval or of this suite; limit: use only the first so many questions.

    file: the task's YAML in lm-eval; version: the task's; harness: lm-eval's version; tokens: per forward pass; batch:
    requests per forward pass where lm-eval runs the model itself.
    """

    name: ClassVar[str] = "zeroshot"
    needs: ClassVar[Needs] = Needs.NOTHING
    task: str
    file: str
    version: str
    harness: str
    batch: int
    tokens: int
    limit: int | None = None

    @property
    def protocol(self) -> Protocol:
        return Protocol(name=self.task, version=self.version, limit=self.limit)

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """The task's metrics. Items: each question's acc, 0 or 1; its first metric where it has no acc.

        Raises:
            UserError: the task's data cannot be read.
        """
        from bench.inputs import lmeval  # imports lm_eval
        from bench.measures import packed_scoring  # imports torch

        task = read_task(self.task, self.file)
        tasks.ensure(task, context.data_dir)
        loaded = model()
        obstacle = packed_scoring.find_obstacle(loaded)
        count = _TokenCount(loaded)
        scores = lmeval.evaluate(
            loaded,
            context.tokenizer(),
            task,
            tasks.data_folder(task, context.data_dir),
            self.batch,
            self.limit,
            context.progress,
            None if obstacle else partial(packed_scoring.score, loaded, capacity=self.tokens),
        )
        questions = len(scores.samples)
        values = tuple(
            Reading(s.metric, s.value, "1", "higher" if s.higher else "lower", stderr=s.stderr, n=questions)
            for s in scores.scores
        )
        notes = {
            "data": task.hub or "wiki-mini",
            "revision": tasks.revision(task, context.data_dir),
            "engine": f"lm-eval: {obstacle or ', '.join(scores.left)}" if scores.left else "packed",
        }
        items = _items(scores.samples, builtin=self.task in tasks.BUILTIN_TASKS)
        return Readings(values, items, tokens=count.tokens, notes=notes)


class _TokenCount:
    """Counts the tokens that go through a model, padding included."""

    def __init__(self, model: nn.Module) -> None:
        self.tokens = 0
        model.get_input_embeddings().register_forward_pre_hook(self._add)  # type: ignore[operator]

    def _add(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.tokens += args[0].numel()


def _items(samples: tuple[Sample, ...], builtin: bool) -> tuple[Item, ...]:
    """Named by the document's hash, and a number where a document occurs again. builtin tasks cluster by article."""
    metrics = list(samples[0].scores) if samples else []
    if not metrics:
        return ()
    first = "acc" if "acc" in metrics else metrics[0]
    counts: Counter[str] = Counter()
    items = []
    for sample in samples:
        name = sample.hash + (f"#{counts[sample.hash]}" if counts[sample.hash] else "")
        counts[sample.hash] += 1
        cluster = str(sample.document["article"]) if builtin else name
        others = {m: sample.scores[m] for m in metrics if m != first}
        items.append(Item(name, cluster, sample.scores[first], 1.0, others))
    return tuple(items)
