"""Questions with a right answer: its bits per byte beside another question's, and the score of an
answer that the model writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.measures import generation, packed_scoring
from bench.measures.contract import MeasureContext, Readings
from bench.measures.generation import Ids
from bench.measures.windowed import mean_and_stderr
from bench.results.record import Item, Reading
from methods.contract.errors import Skipped

Grade = Callable[[int, str], float]
"""Returns the score of a text, from 0 to 1, as an answer to the question of a number."""


@dataclass(frozen=True)
class Questions:
    """Prompts and their right answers."""

    prefix: str
    """Start of the names of the metrics: of _bits, _gain and _score."""
    names: Sequence[str]
    prompts: Sequence[Ids]
    right: Sequence[str] = ()
    """Text of each right answer, with the space before it. Empty: no text is right."""
    room: int = 0
    """Largest number of tokens that the model writes. 0: it writes nothing."""
    grade: Grade = lambda number, text: 0.0
    floor: float | None = None
    """Score that needs no understanding. None: that of the same texts as answers to the next
    question."""


def ask(
    questions: Questions, model: Callable[[], Any], context: MeasureContext, length: int
) -> Readings:
    """Return bits, gain and score of questions.

    The bits per byte are those of the right answer at the end of the prompt. The gain is how many
    more bits per byte the next other answer takes there.

    Args:
        length: tokens that the model sees.

    Raises:
        Skipped: the model cannot be packed.
    """
    tokenizer, loaded = context.tokenizer(), model()
    count, prefix = len(questions.names), questions.prefix
    columns: dict[str, list[float]] = {}
    if questions.right:
        columns = _bits(questions, loaded, tokenizer, context, length)
    notes: Mapping[str, Any] = {}
    if questions.room:
        columns[f"{prefix}_score"], notes = _write(questions, loaded, tokenizer, context)
    readings = []
    for metric, values in columns.items():
        mean, stderr = mean_and_stderr(values)
        readings.append(Reading(metric, mean, stderr=stderr, n=count))
    first, *others = columns
    items = []
    for k, name in enumerate(questions.names):
        beside = {metric: columns[metric][k] for metric in others}
        items.append(Item(name, name, columns[first][k], 1.0, beside))
    passes = bool(questions.right) + bool(questions.room)
    tokens = passes * sum(map(len, questions.prompts))
    return Readings(tuple(readings), tuple(items), tokens=tokens, notes=notes)


def _bits(
    questions: Questions, loaded: Any, tokenizer: Any, context: MeasureContext, length: int
) -> dict[str, list[float]]:
    obstacle = packed_scoring.find_obstacle(loaded)
    if obstacle:
        raise Skipped(f"answers cannot be packed for {obstacle}")
    texts = list(questions.right)
    pairs, sizes = [], []
    for k, prompt in enumerate(questions.prompts):
        for text in (texts[k], another(texts, k)):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            pairs.append((list(prompt), ids))
            sizes.append(len(text.encode()))
    bits = [0.0] * len(pairs)
    for done, one in enumerate(packed_scoring.score(loaded, pairs, length, length), 1):
        bits[one.number] = -one.log_likelihood / math.log(2) / sizes[one.number]
        context.progress.advance(done, len(pairs))
    right, other = bits[::2], bits[1::2]
    gains = [b - a for a, b in zip(right, other, strict=True)]
    return {f"{questions.prefix}_bits": right, f"{questions.prefix}_gain": gains}


def _write(
    questions: Questions, loaded: Any, tokenizer: Any, context: MeasureContext
) -> tuple[list[float], Mapping[str, Any]]:
    """Let the model answer. Return the scores, and notes with texts and floor."""
    prompts = generation.fit(questions.prompts, loaded, questions.room)
    written = generation.answer(
        loaded, prompts, questions.room, context.compute.device, context.progress.advance
    )
    texts, count = generation.decode(tokenizer, written), len(written)
    scores = [questions.grade(k, text) for k, text in enumerate(texts)]
    floor = questions.floor
    if floor is None:
        floor = sum(questions.grade((k + 1) % count, texts[k]) for k in range(count)) / count
    answers = dict(zip(questions.names, texts, strict=True))
    return scores, {"chance": floor, "majority": floor, "answers": answers}


def another(texts: Sequence[str], k: int) -> str:
    """Return the next text that differs from text k, or text k if none does."""
    after = [text for text in [*texts[k + 1 :], *texts[:k]] if text != texts[k]]
    return after[0] if after else texts[k]
