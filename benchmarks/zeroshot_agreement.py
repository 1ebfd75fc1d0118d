"""Agreement of packed scoring with lm-eval's model class on a dense model.

smollm2-135m-instruct-q4 answers the first 500 questions of three tasks.
In float32: how far the log-likelihoods are apart, and how many questions are judged otherwise. In
bfloat16: how many are, and by how much lm-eval preferred its answer to ours. The data is in
$BENCH_DATA_DIR or in the cache.

python benchmarks/zeroshot_agreement.py [--questions 500] [--tasks arc_easy,piqa]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from statistics import median
from typing import Any, NamedTuple

import torch
from harness import MODEL, Figures, finish, like_a_worker, significant, start
from lm_eval.models.huggingface import HFLM
from zeroshot import LIMIT, LM_EVAL_BATCH, REAL_TASKS, find

from bench.inputs import download, lmeval, loading
from bench.measures import packed_scoring
from bench.measures.prefix_tree import grow_trees
from bench.system.devices import cores
from methods.contract.method import Compute, NoProgress

CAPACITY = 1024

Pairs = Sequence[tuple[list[int], list[int]]]
Answers = list[tuple[float, bool]]


class TaskAnswers(NamedTuple):
    pairs: Pairs
    answers: Answers
    samples: tuple[lmeval.Sample, ...]

    def choices(self) -> list[list[float]]:
        """Return the log-likelihoods of each question's continuations."""
        found = []
        rows = zip(self.pairs, self.answers, strict=True)
        for _, group in groupby(rows, key=lambda row: row[0][0]):
            found.append([answer for _, (answer, _) in group])
        return found


def run(
    model: Any, tokenizer: Any, name: str, limit: int, answer: Callable[[Pairs, int], Answers]
) -> TaskAnswers:
    """Let lm-eval make the requests of a task, and answer them."""
    kept: list[tuple[Pairs, Answers]] = []

    def scorer(pairs: Pairs, max_length: int) -> Iterator[tuple[int, float, bool]]:
        answers = answer(pairs, max_length)
        kept.append((pairs, answers))
        yield from ((number, *one) for number, one in enumerate(answers))

    task = find(name)
    scores = lmeval.evaluate(model, tokenizer, *task, LM_EVAL_BATCH, limit, NoProgress(), scorer)
    ((pairs, answers),) = kept
    return TaskAnswers(pairs, answers, scores.samples)


def both(model: Any, tokenizer: Any, name: str, limit: int) -> tuple[TaskAnswers, TaskAnswers]:
    """Return our answers and lm-eval's."""
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=LM_EVAL_BATCH)

    def packed(pairs: Pairs, max_length: int) -> Answers:
        scores = packed_scoring.score(model, pairs, max_length, CAPACITY)
        return [(value, greedy) for _, value, greedy in sorted(scores)]

    def theirs(pairs: Pairs, _: int) -> Answers:
        return lm._loglikelihood_tokens([(None, *pair) for pair in pairs], disable_tqdm=True)  # type: ignore[no-any-return]

    return run(model, tokenizer, name, limit, packed), run(model, tokenizer, name, limit, theirs)


def count_flips(dtype: str, one: TaskAnswers, other: TaskAnswers) -> dict[str, int]:
    """Return the number of questions judged otherwise, by metric."""
    pairs, counts = list(zip(one.samples, other.samples, strict=True)), {}
    for metric in pairs[0][0].scores:
        differ = [a for a, b in pairs if a.scores[metric] != b.scores[metric]]
        counts[f"{dtype}, questions with another {metric}"] = len(differ)
    return counts


def margins(judge: TaskAnswers, other: TaskAnswers) -> list[float]:
    """Return by how much `judge` prefers its choice, for questions on which the two differ."""
    found = []
    for a, b in zip(judge.choices(), other.choices(), strict=True):
        mine, others = a.index(max(a)), b.index(max(b))
        if mine != others:
            found.append(a[mine] - a[others])
    return sorted(found)


def describe(judge: TaskAnswers, other: TaskAnswers) -> str:
    values = margins(judge, other)
    return f"{len(values)}, at {median(values):.2g} nats (to {max(values):.2g})" if values else "0"


def compare(name: str, limit: int) -> Figures:
    """Return how far ours and lm-eval's answers to a task are apart."""
    folder = download.pull(MODEL).folder
    tokenizer = loading.load_tokenizer(folder)
    ours, theirs = both(loading.load(folder, Compute()), tokenizer, name, limit)
    inputs = [(context + continuation)[:-1] for context, continuation in ours.pairs]
    trees = grow_trees(inputs, CAPACITY, 576)
    greedy = [a[1] != b[1] for a, b in zip(ours.answers, theirs.answers, strict=True)]
    apart = [abs(a[0] - b[0]) for a, b in zip(ours.answers, theirs.answers, strict=True)]
    model = loading.load(folder, Compute(dtype=torch.bfloat16))
    ours_16, theirs_16 = both(model, tokenizer, name, limit)
    return {
        "tokens, packed / each pair": round(sum(map(len, trees)) / sum(map(len, inputs)), 3),
        "float32, log-likelihoods apart at most": significant(max(apart)),
        "float32, greedy flags that differ": sum(greedy),
        **count_flips("float32", ours, theirs),
        **count_flips("bfloat16", ours_16, theirs_16),
        "bfloat16, other choices than lm-eval's, and its margins": describe(theirs_16, ours_16),
        "other choices than in float32, bfloat16 of lm-eval": describe(theirs, theirs_16),
        "other choices than in float32, bfloat16 of ours": describe(ours, ours_16),
    }


def main(questions: int = LIMIT, tasks: str = ",".join(REAL_TASKS)) -> None:
    like_a_worker()
    torch.set_num_threads(cores())
    answers = {name: compare(name, questions) for name in tasks.split(",")}
    finish("zeroshot_agreement", {"questions": questions} | answers)


if __name__ == "__main__":
    start(main)
