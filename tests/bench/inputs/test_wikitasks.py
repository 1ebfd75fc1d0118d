"""The suite's own zero-shot tasks: what their items are, and that they are the same anywhere."""

import json

import pandas as pd
import pytest

from bench.inputs import loading, tasks, wikimini, wikitasks
from bench.system import digests
from helpers import runs


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    return runs.own_cache(tmp_path, monkeypatch)


def test_the_same_bytes_for_the_same_seed(monkeypatch, tmp_path):
    first = {p.name: p.read_bytes() for p in wikitasks.folder().glob("*.jsonl")}
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    (other / "data" / runs.corpus().name).write_bytes(runs.corpus().read_bytes())
    monkeypatch.setenv("CAST_BENCH_CACHE", str(other))

    assert {p.name: p.read_bytes() for p in wikitasks.folder().glob("*.jsonl")} == first
    assert sorted(first) == ["wiki_continuation.jsonl", "wiki_lastword.jsonl"]
    for name in tasks.BUILTIN_TASKS:
        assert wikitasks.items(name, seed=1) != wikitasks.items(name, seed=0)


@pytest.mark.parametrize(
    ("name", "digest"), [("wiki_continuation", "96860b0dab3724cb"), ("wiki_lastword", "c3540d7cc84b2eff")]
)
def test_an_item_that_comes_out_differently_needs_another_version(name, digest):
    assert wikitasks.VERSION == 1
    assert digests.of(wikitasks.items(name))[:16] == digest


@pytest.mark.parametrize("name", tasks.BUILTIN_TASKS)
def test_items_are_passages_of_test_articles(name, cache):
    texts = {a.title: a.text for a in wikimini.articles("test", cache)}
    found = wikitasks.items(name)

    assert len(found) == wikitasks.ITEM_COUNTS[name] == len({json.dumps(i) for i in found})
    for item in found:
        right = item["word"] if name == "wiki_lastword" else item["choices"][item["label"]]
        assert f"{item['context']} {right}" in texts[item["article"]]


def test_wrong_continuations_are_of_the_corpus_and_of_a_length(cache):
    whole = "\n".join(a.text for a in wikimini.articles("test", cache))
    found = wikitasks.items("wiki_continuation")

    for item in found:
        right = item["choices"][item["label"]]
        assert len(set(item["choices"])) == 4
        assert all(c in whole and abs(len(c) - len(right)) <= 3 for c in item["choices"])
    labels = pd.Series([i["label"] for i in found]).value_counts()
    assert labels.min() > 60


def test_last_words_were_said_before():
    for item in wikitasks.items("wiki_lastword"):
        assert item["word"] in item["context"].replace("-", " ") and item["word"].islower()


@pytest.mark.parametrize("name", tasks.BUILTIN_TASKS)
def test_items_fit_tinys_context(name):
    """lm-eval would cut the beginning off, and the passage with it."""
    encode = loading.load_tokenizer(runs.TINY)
    lengths = [
        len(encode(f"{item['context']} {end}")["input_ids"])
        for item in wikitasks.items(name)
        for end in item.get("choices", [item.get("word")])
    ]

    assert max(lengths) <= 128
