"""wiki-mini: whole, disjoint, and the text that `tiny` was trained on; its tasks ask about the test
articles."""

import hashlib
import json
import lzma

import pandas as pd
import pytest

from bench.inputs import loading, tasks, wikimini
from bench.system import digests
from helpers import runs
from methods.contract.errors import UserError

QUESTIONS = {"wiki_continuation": "96860b0dab3724cb", "wiki_lastword": "c3540d7cc84b2eff"}
"""First digits of the digest of the questions."""


def questions(name):
    return [
        json.loads(line) for line in (wikimini.FOLDER / f"{name}.jsonl").read_text().splitlines()
    ]


def test_splits_partition_the_articles():
    splits = [wikimini.articles(split) for split in wikimini.SPLITS]
    everything = [article for articles in splits for article in articles]
    assert [len(articles) for articles in splits] == [72, 10, 13]
    assert len({a.title for a in everything}) == len({a.text for a in everything}) == 95
    assert all(line and line == line.strip() for a in everything for line in a.text.split("\n"))


def test_is_the_text_that_tiny_was_trained_on():
    trained_on = json.loads((runs.TINY / "TRAINING.json").read_text())["data"]
    articles = [row[1:] for row in json.loads(lzma.decompress(wikimini.ARTICLES.read_bytes()))]
    text = json.dumps(articles, ensure_ascii=False, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == trained_on["fingerprint"]
    assert trained_on["recipe"] == wikimini.VERSION


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(wikimini, "ARTICLES", tmp_path / "articles.json.xz")
    wikimini.ARTICLES.write_bytes(b"else")
    wikimini._read_articles.cache_clear()
    with pytest.raises(
        UserError, match=r"articles.json.xz has sha256 .*: install cast-bench again"
    ):
        wikimini.articles("test")


@pytest.mark.parametrize("name", tasks.BUILTIN_TASKS)
def test_questions_are_passages_of_test_articles(name):
    """Another question needs another TASK_VERSION and TASKS_DIGEST."""
    texts = {a.title: a.text for a in wikimini.articles("test")}
    found = questions(name)
    assert digests.of(found)[:16] == QUESTIONS[name]
    assert len(found) == wikimini.TASKS[name] == len({json.dumps(q) for q in found})
    for question in found:
        right = question.get("word") or question["choices"][question["label"]]
        assert f"{question['context']} {right}" in texts[question["article"]]


def test_the_right_continuation_is_anywhere_among_four():
    found = questions("wiki_continuation")
    assert all(len(set(q["choices"])) == 4 for q in found)
    assert pd.Series([q["label"] for q in found]).value_counts().min() > 60


@pytest.mark.parametrize("name", tasks.BUILTIN_TASKS)
def test_questions_fit_tinys_context(name):
    """lm-eval would cut the beginning off, and the passage with it."""
    encode = loading.load_tokenizer(runs.TINY)
    ends = [(q, end) for q in questions(name) for end in q.get("choices", [q.get("word")])]
    texts = [f"{q['context']} {end}" for q, end in ends]
    assert max(map(len, encode(texts)["input_ids"])) <= 128
