"""Two zero-shot tasks made from wiki-mini's test articles, in lm-eval's format: a folder of YAML and JSON lines.

`wiki_continuation`: choose which of four continuations follows a passage; the wrong ones follow other passages. Chance is
1 in 4.
`wiki_lastword`: predict the last word of a passage in which it occurred before, as in LAMBADA. It counts as correct where
each of its tokens is the most likely one.
Items fit in a context of 128 tokens with a vocabulary of 1024. Text: Wikipedia's contributors, CC BY-SA.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.inputs import wikimini
from bench.system.cache import cache_dir
from bench.system.files import atomic_write

SEED = 0
VERSION = 1  # increase it whenever an item changes
RECIPE = hashlib.sha256(f"{wikimini.RECIPE} {SEED} {VERSION}".encode()).hexdigest()[:12]
ITEM_COUNTS = {"wiki_continuation": 400, "wiki_lastword": 400}
CHOICES = 4

_CONTEXT_CHARS, _CONTINUATION_CHARS = 130, 15  # at least so many characters, then to the end of the word
_MAX_PASSAGE_CHARS = 180  # characters before a last word, at most
_WORD = re.compile(r"([a-z]{3,})[.,;:]?")
_TASK_YAML = {
    "wiki_continuation": """\
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    "wiki_lastword": """\
output_type: loglikelihood
doc_to_text: "{{context}}"
doc_to_target: "{{' ' + word}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
}


def folder() -> Path:
    """The folder with both tasks, written if it is missing; also for lm-eval's `--include_path`."""
    path = cache_dir() / "data" / f"wiki-tasks-{RECIPE}"
    for name, text in _TASK_YAML.items():
        data, task = path / f"{name}.jsonl", path / f"{name}.yaml"
        if not data.exists():
            with atomic_write(data) as temporary:
                temporary.write_text("".join(json.dumps(i, ensure_ascii=False) + "\n" for i in items(name)))
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {json.dumps(str(data))}}}}}\n"
        content = head + f"test_split: test\n{text}metadata: {{version: {VERSION}.0}}\n"
        if not task.exists() or task.read_text() != content:  # the cache may have moved
            with atomic_write(task) as temporary:
                temporary.write_text(content)
    return path


def items(name: str, seed: int = SEED) -> list[dict[str, Any]]:
    """The items of a task. They are chosen by hashes, so they are the same on any machine for the same seed."""
    articles = wikimini.articles("test", cache_dir())
    if name == "wiki_lastword":
        words = [{"article": a.title, "context": c, "word": w} for a in articles for c, w in _last_words(a.text)]
        return sorted(words, key=lambda x: _hash(seed, x["article"], x["context"]))[: ITEM_COUNTS[name]]
    passages = [(a.title, context, next_) for a in articles for context, next_ in _passages(a.text)]
    passages.sort(key=lambda p: _hash(seed, *p))
    return [_question(passages, i, seed) for i in range(ITEM_COUNTS[name])]


def _question(passages: list[tuple[str, str, str]], index: int, seed: int) -> dict[str, Any]:
    """A passage with its continuation and three others of about the same length from other passages, chosen by hash."""
    title, context, right = passages[index]
    others = {p[2] for p in passages if p[2] != right and abs(len(p[2]) - len(right)) <= 3}
    wrong = sorted(others, key=lambda text: _hash(seed, context, text))[: CHOICES - 1]
    choices = sorted([right, *wrong], key=lambda text: _hash(seed, "order", context, text))
    return {"article": title, "context": context, "choices": choices, "label": choices.index(right)}


def _passages(text: str) -> Iterator[tuple[str, str]]:
    """(context, continuation) pairs, one after another within each paragraph, both of whole words."""
    for line in text.split("\n"):
        words = iter(line.split(" "))
        while (context := _take_words(words, _CONTEXT_CHARS)) and (
            following := _take_words(words, _CONTINUATION_CHARS)
        ):
            yield context, following


def _take_words(words: Iterator[str], size: int) -> str:
    """Words up to at least `size` characters; "" where the paragraph ends before."""
    text = ""
    for word in words:
        text += (" " if text else "") + word
        if len(text) >= size:
            return text
    return ""


def _last_words(text: str) -> Iterator[tuple[str, str]]:
    """(context, next word), where the next word has three or more lower-case letters and occurs in the context."""
    for line in text.split("\n"):
        words = line.split(" ")
        start = 0
        for at, word in enumerate(words):
            context = " ".join(words[start:at])
            if len(context) > _MAX_PASSAGE_CHARS:
                start += 1
                continue
            target = _WORD.fullmatch(word) if len(context) >= _CONTEXT_CHARS else None
            if target and re.search(rf"\b{target[1]}\b", context):
                yield context, target[1]
                start = at + 1


def _hash(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()
