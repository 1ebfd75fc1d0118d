"""Zero-shot accuracy: one task of lm-eval, question by question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.inputs import tasks
from bench.inputs.task_yaml import read_task
from bench.measures.contract import MeasureContext, Readings
from bench.results.identity import Protocol
from bench.results.record import Item, Reading
from methods.contract import Needs

if TYPE_CHECKING:
    from torch import nn

    from bench.inputs.lmeval import Sample


@dataclass(frozen=True)
class Zeroshot:
    """task: of lm-eval, or the suite's own; batch: requests per forward; limit: the first so many questions.

    file, version and harness are lm-eval's: where it keeps the task, the task's version, its own.
    """

    name: ClassVar[str] = "zeroshot"
    needs: ClassVar[Needs] = Needs.NOTHING
    task: str
    file: str
    version: str
    harness: str
    batch: int
    limit: int | None = None

    @property
    def protocol(self) -> Protocol:
        return Protocol(name=self.task, version=self.version, limit=self.limit)

    def read(self, model: Callable[[], nn.Module], rig: MeasureContext) -> Readings:
        """Readings are the task's metrics; items hold acc, 0 or 1, where it has one, else its first metric.

        Raises:
            UserError: the task's data cannot be read.
        """
        from bench.inputs import lmeval

        task = read_task(self.task, self.file)
        tasks.ensure(task, rig.data_dir)
        found = lmeval.evaluate(
            model(),
            rig.tokenizer(),
            task,
            tasks.data_folder(task, rig.data_dir),
            self.batch,
            self.limit,
            rig.progress,
        )
        count = len(found.samples)
        values = tuple(
            Reading(s.metric, s.value, "1", "higher" if s.higher else "lower", stderr=s.stderr, n=count)
            for s in found.scores
        )
        notes = {"data": task.hub or "wiki-mini", "revision": tasks.revision(task, rig.data_dir)}
        return Readings(values, _items(found.samples, own=self.task in tasks.BUILTIN_TASKS), notes=notes)


def _items(samples: tuple[Sample, ...], own: bool) -> tuple[Item, ...]:
    """By the document's hash; a document that stands there twice is told apart by its number."""
    metrics = list(samples[0].scores) if samples else []
    if not metrics:
        return ()
    first = "acc" if "acc" in metrics else metrics[0]
    seen: Counter[str] = Counter()
    items = []
    for sample in samples:
        name = sample.hash + (f"#{seen[sample.hash]}" if seen[sample.hash] else "")
        seen[sample.hash] += 1
        cluster = str(sample.document["article"]) if own else name
        beside = {m: sample.scores[m] for m in metrics if m != first}
        items.append(Item(name, cluster, sample.scores[first], 1.0, beside))
    return tuple(items)
