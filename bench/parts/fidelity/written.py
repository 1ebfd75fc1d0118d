"""Health of the answers that a model writes itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.measures.contract import MeasureContext, Readings
from bench.measures.windowed import mean_and_stderr
from bench.parts.fidelity.own_answers import OwnAnswers
from bench.results.record import Item, Reading
from methods.contract.measure_info import MeasureInfo, Metric

if TYPE_CHECKING:
    from torch import nn

    from bench.measures.generation import Ids

NGRAM = 4
"""Tokens of a sequence that a loop repeats."""
MOST_REPEATS = 3
"""Largest number of times that an answer without a loop has one such sequence."""


@dataclass(frozen=True)
class Written(OwnAnswers):
    """Health of a model's own greedy answers: length, share that ends, share that loops, and share
    of the dense model's answer that it keeps.

    Prompts and settings are those of `own_answers`. An answer ends if it has an end of text within
    `own_answers.tokens`. It loops if four tokens in a row occur more than three times. The kept
    share is the longest common subsequence with the dense model's answer over the tokens of that
    answer, which is the recall of ROUGE-L on tokens. The answers stay in the notes of the record.
    Items: the kept share. Beside it: the other numbers.
    """

    name: ClassVar[str] = "written"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric("kept_answer", "1", "higher", "proportion", 0.0, 1.0, aggregation="mean",
                   order=34),
            Metric("answer_tokens", "tokens", "", "tokens", 0.0, aggregation="mean", order=35),
            Metric("ended", "1", "higher", "proportion", 0.0, 1.0, aggregation="mean", order=36),
            Metric("looped", "1", "lower", "proportion", 0.0, 1.0, aggregation="mean", order=37),
        )
    )  # fmt: skip

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Let the model answer. Raise UserError if the questions cannot be read."""
        from bench.measures import generation  # imports torch

        names, clusters, prompts = self.prompts(context)
        prompts, originals = generation.original_answers(context, prompts, self.tokens)
        loaded = model()
        answers = generation.answer(
            loaded, prompts, self.tokens, context.compute.device, context.progress.advance
        )
        items = []
        for name, cluster, own, original in zip(names, clusters, answers, originals, strict=True):
            beside = {
                "answer_tokens": float(len(own)),
                "ended": float(own[-1] in generation.ends_of(loaded)),
                "looped": float(loops(own)),
            }
            kept = count_common(own, original) / len(original)
            items.append(Item(name, cluster, kept, 1.0, beside))
        columns = {"kept_answer": [item.value for item in items]}
        columns |= {name: [item.beside[name] for item in items] for name in items[0].beside}
        readings = []
        for metric, values in columns.items():
            mean, stderr = mean_and_stderr(values)
            readings.append(Reading(metric, mean, stderr=stderr, n=len(items)))
        texts = dict(zip(names, generation.decode(context.tokenizer(), answers), strict=True))
        tokens = sum(map(len, prompts)) + sum(map(len, answers))
        return Readings(tuple(readings), tuple(items), tokens=tokens, notes={"answers": texts})


def loops(answer: Sequence[int]) -> bool:
    """Return whether an answer repeats a sequence of NGRAM tokens more than MOST_REPEATS times."""
    shifted = [answer[k:] for k in range(NGRAM)]
    counts = Counter(zip(*shifted, strict=False))
    return max(counts.values(), default=0) > MOST_REPEATS


def count_common(one: Ids, other: Ids) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for token in one:
        above = row
        row = [0]
        for k, wanted in enumerate(other):
            row.append(above[k] + 1 if token == wanted else max(row[k], above[k + 1]))
    return row[-1]
