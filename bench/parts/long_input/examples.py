"""Examples of RULER by its rules, equal to those of the wheel's own scripts at its seed.

The rules are written again here, because the wheel's scripts parse a command line and need other
packages.
"""

from __future__ import annotations

import contextlib
import math
import random
import re
import string
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from bench.parts.long_input.sources import Sources, compounds, split_sentences
from methods.contract.errors import Skipped

SEED = 42
"""The wheel's default seed."""
MOST_TRIES = 100
"""Attempts at an example that fits. The wheel has no limit."""
NEEDLE = "One of the special magic {type_needle_v} for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DEPTHS = list(np.round(np.linspace(0, 100, num=40, endpoint=True)).astype(int))
"""Places of a needle in an essay, in percent."""


class Example(NamedTuple):
    prompt: str
    answers: list[str]
    """Texts that a right answer has: all of them, or any one in `qa`."""


class Rule:
    """A rule that makes examples of a size: words, sentences or documents of the haystack."""

    step = 10
    shrinks = True
    """Whether an example that is too long is made again with a smaller size."""

    def __init__(self, sources: Sources, template: str, length: int, **settings: Any) -> None:
        self.sources, self.template, self.length = sources, template, length
        self.random = random.Random(SEED)
        self.settings = settings

    def make(self, size: int, index: int) -> Example:
        raise NotImplementedError

    def whole(self, example: Example) -> str:
        """Return the text whose tokens decide the size."""
        return f"{example.prompt} {example.answers}"


class Niah(Rule):
    """Needles in a haystack."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.keys = max(settings["num_needle_k"], settings["num_needle_q"])
        self.kind = settings["type_haystack"]
        if self.kind == "essay":
            self.step = 500
            self.essay = self.sources.essay()
        else:
            self.step = 5 if self.length < 4096 else 25
        nouns, adjectives = self.sources.words_of("noun", "adjective")
        self.words = compounds(tuple(adjectives), tuple(nouns))

    def whole(self, example: Example) -> str:
        return example.prompt + " ".join(example.answers)

    def draw(self, kind: str) -> str:
        if kind == "numbers":
            return str(self.random.randint(10**6, 10**7 - 1))
        if kind == "words":
            return self.random.choice(self.words)
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def needle(self, key: str, value: str) -> str:
        return NEEDLE.format(type_needle_v=self.settings["type_needle_v"], key=key, value=value)

    def make(self, size: int, index: int) -> Example:
        own = self.settings
        keys, values, needles = [], [], []
        for _ in range(self.keys):
            key, of_key = self.draw(own["type_needle_k"]), []
            for _ in range(own["num_needle_v"]):
                of_key.append(self.draw(own["type_needle_v"]))
                needles.append(self.needle(key, of_key[-1]))
            keys.append(key)
            values.append(of_key)
        random.Random(SEED).shuffle(needles)
        context = self._in_essay(size, needles) if self.kind == "essay" else self._in_lines(
            size, needles
        )  # fmt: skip
        chosen = self.random.sample(range(self.keys), own["num_needle_q"])
        queries = [keys[i] for i in chosen]
        answers = [value for i in chosen for value in values[i]]
        query = queries[0]
        if len(queries) > 1:
            query = ", ".join(queries[:-1]) + ", and " + queries[-1]
        template, noun = self.template, own["type_needle_v"]
        if own["num_needle_q"] * own["num_needle_v"] == 1:
            for plural, one in (("Some", "A"), ("are all", "is"), ("are", "is")):
                template = template.replace(plural, one)
            noun = noun[:-1]
        return Example(template.format(type_needle_v=noun, context=context, query=query), answers)

    def _in_essay(self, size: int, needles: list[str]) -> str:
        sentences = split_sentences(" ".join(self.essay[:size]).strip())
        depths = self.random.sample(DEPTHS, len(needles))
        places = sorted(int(len(sentences) * (depth / 100)) for depth in depths)
        parts = []
        for start, end, needle in zip([0, *places], places, needles, strict=False):
            parts += [" ".join(sentences[start:end]), needle]
        return " ".join([*parts, " ".join(sentences[places[-1] :])])

    def _in_lines(self, size: int, needles: list[str]) -> str:
        lines = [NOISE] * size
        if self.kind == "needle":
            kinds = (self.settings["type_needle_k"], self.settings["type_needle_v"])
            lines = [self.needle(*map(self.draw, kinds)) for _ in range(size)]
        places = sorted(self.random.sample(range(size), len(needles)), reverse=True)
        for place, needle in zip(places, needles, strict=True):
            lines.insert(place, needle)
        return "\n".join(lines)


class VariableTracking(Rule):
    """Chains of assignments, with an example of a shorter text before each question."""

    shrinks = False

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.numbers = np.random.RandomState(SEED)
        self.letters = 3
        """Letters of a variable: 3 in the example, then 5."""

    def make(self, size: int, index: int) -> Example:
        hops = self.settings["num_hops"]
        names = [self._name() for _ in range(hops + 1)]
        while len(set(names)) < hops + 1:
            names.append(self._name())
        names = names[: hops + 1]
        chain = [f"VAR {names[0]} = {self.numbers.randint(10000, 99999)}"]
        chain += [f"VAR {names[j + 1]} = VAR {names[j]} " for j in range(hops)]
        lines = [NOISE + "\n"] * size
        if size <= len(chain):
            pieces = [piece for line in lines for piece in line.split(".")]
            lines = [piece + "." if piece.strip() else piece for piece in pieces]
        places = sorted(self.random.sample(range(len(lines)), len(chain)))
        for number, (place, line) in enumerate(zip(places, chain, strict=True)):
            lines.insert(place + number, line)
        context = " ".join(lines).replace(". \n", ".\n")
        value = chain[0].split("=")[-1].strip()
        prompt = self.template.format(context=context, query=value, num_v=hops + 1)
        return Example(prompt, names)

    def _name(self) -> str:
        return "".join(self.random.choices(string.ascii_uppercase, k=self.letters))

    def renamed(self, example: str, prefix: str) -> str:
        """Return the example with other names."""
        end = prefix[-10:]
        for name in example[example.index(end) + 10 :].strip().split():
            other = "".join(self.random.choices(string.ascii_uppercase, k=len(name)))
            example = example.replace(name, other)
        return example


class CommonWords(Rule):
    """The ten most common words of a numbered list, after an example."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        kinds = self.sources.words_of("noun", "adjective", "verb")
        self.words = sorted(set().union(*kinds))
        random.Random(SEED).shuffle(self.words)

    def whole(self, example: Example) -> str:
        return f"{example.prompt} {numbered(example.answers)}"

    def make(self, size: int, index: int) -> Example:
        own = self.settings
        before, repeats = (20, 3, 1), (6, 1)
        if self.length >= 4096:
            before, repeats = (40, 10, 3), (own["freq_cw"], own["freq_ucw"])
        context, answers = self._list(*before)
        example = self.template.format(context=context, query="") + numbered(answers)
        context, answers = self._list(size, *repeats)
        return Example(f"{example}\n{self.template.format(context=context, query='')}", answers)

    def _list(self, size: int, common: int, others: int) -> tuple[str, list[str]]:
        drawn, count = self.random.sample(self.words, size), self.settings["num_cw"]
        words = drawn[:count] * common + drawn[count:] * others
        random.Random(SEED).shuffle(words)
        return numbered(words), drawn[:count]


class Documents(Rule):
    """A question about one of several documents."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.questions, self.texts = self.sources.questions(settings["dataset"])

    def make(self, size: int, index: int) -> Example:
        query, answers, own, near = self.questions[index]
        if size - len(own) > len(near):
            others = [i for i in range(len(self.texts)) if i not in {*own, *near}]
            chosen = own + near + self.random.sample(others, size - len(own) - len(near))
        else:
            chosen = own + self.random.sample(near, size - len(own))
        texts = [self.texts[i] for i in chosen]
        random.Random(SEED).shuffle(texts)
        documents = [f"Document {i}:\n{text}" for i, text in enumerate(texts, 1)]
        prompt = self.template.format(context="\n\n".join(documents), query=query)
        return Example(prompt, list(answers))


RULES: Mapping[str, type[Rule]] = {
    "niah": Niah,
    "variable_tracking": VariableTracking,
    "common_words_extraction": CommonWords,
    "qa": Documents,
}


def make_examples(
    sources: Sources, task: str, length: int, limit: int, count: Callable[[str], int]
) -> list[Example]:
    """Return the first examples of a task.

    Args:
        length: tokens of prompt and answer together, at most.
        count: returns the number of tokens of a text.

    Raises:
        Skipped: the length is too short for the task.
    """
    about = sources.tasks()[task]
    texts = sources.templates()[about["task"]]
    template, room = texts["template"] + texts["answer_prefix"], texts["tokens_to_generate"]
    if about["task"] == "freq_words_extraction":
        return frequent_words(template, length, limit, count)
    rule = RULES[about["task"]](sources, template, length, **about["args"])
    if not isinstance(rule, VariableTracking):
        return list(_fill(rule, length, room, limit, count))
    rule.step = 5
    (example,) = _fill(rule, 500, room, 1, count)
    before = f"{example.prompt} {' '.join(example.answers)}\n\n"
    rule.step, rule.letters = 10, 5
    examples = []
    for one in _fill(rule, length, room + count(before), limit, count):
        renamed = rule.renamed(before, texts["answer_prefix"])
        examples.append(Example(f" {renamed}\n\n{one.prompt}", one.answers))
    return examples


def _fill(
    rule: Rule, length: int, room: int, limit: int, count: Callable[[str], int]
) -> Iterator[Example]:
    """Yield examples of the largest size that fits, in steps of the rule. room: tokens to leave."""
    size, total = rule.step, 0
    while total + room < length:
        total = count(rule.whole(rule.make(size, 0)))
        if total + room > length:
            size -= rule.step
        else:
            size += rule.step
    for index in range(limit):
        used = size
        for _ in range(MOST_TRIES):
            with contextlib.suppress(ValueError):  # the size is too small for the needles
                example = rule.make(used, index)
                if count(example.prompt) + room <= length:
                    yield example
                    break
            if used > rule.step and rule.shrinks:
                used -= rule.step
        else:
            raise Skipped(f"RULER has no example of at most {length} tokens for this task")


def frequent_words(
    template: str, length: int, limit: int, count: Callable[[str], int]
) -> list[Example]:
    """Return examples of the three most frequent coded words, whose frequencies follow Zipf's
    law with exponent 2."""
    generator, step, letters = random.Random(SEED), length // 32, 6

    def draw() -> str:
        return "".join(generator.choices(string.ascii_lowercase, k=letters))

    def draw_words() -> list[str]:
        words = [draw() for _ in range(length // 50)]
        while len(set(words)) < length // 50:
            words.append(draw())
        words = sorted(set(words))
        random.Random(SEED).shuffle(words)
        return ["...", *words[1:]]

    def write(words: list[str], total: int) -> str:
        ranks = np.arange(1, len(words) + 1)
        numbers = (total * (ranks**-2.0) / (math.pi**2 / 6)).astype(int)
        text = []
        for word, number in zip(words, numbers, strict=True):
            text += [word] * int(number)
        random.Random(SEED).shuffle(text)
        return template.format(context=" ".join(text), query="")

    words, total = draw_words(), length // letters
    while count(write(words, total)) < length:
        total += step
    most = total - step
    examples = []
    for _ in range(limit):
        words, total = draw_words(), most
        while count(write(words, total)) > length:
            total -= step
        examples.append(Example(write(words, total), words[1:4]))
    return examples


def numbered(words: list[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


def score(task_rule: str, text: str, answers: list[str]) -> float:
    """Return the share of answers that a text has, or whether it has any in `qa`, without regard to
    case."""
    text = re.sub(r"[\x00-\x1f]", "\n", text.strip()).strip().lower()
    found = [float(answer.lower() in text) for answer in answers]
    return max(found) if task_rule == "qa" else sum(found) / len(found)
