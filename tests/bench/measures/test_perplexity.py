"""Perplexity against its definition, and the token blocks it and calibration are cut from."""

import dataclasses
import gzip
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bench.execution.new_record import new_record
from bench.inputs import corpora, loading, windows
from bench.inputs.tokenizer_facts import read_tokenizer_facts
from bench.measures import forward
from bench.measures.perplexity import Perplexity, WindowLosses
from bench.measures.window_pass import LogitPart, logit_parts
from bench.measures.windowed import Windows
from bench.planning.plan import make_plan
from bench.planning.spec import Spec
from bench.results import reproduce
from bench.results.record import parse
from helpers import runs
from helpers.measuring import context_of
from methods.contract.errors import UserError
from methods.contract.method import Compute

SEQLEN = 32
ROWS = [
    "", " = First = \n", "", " One two three. \n", " = = Part = = \n", " Four. \n",
    " = Second = \n", " Five six. \n",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer(runs.TINY)


@pytest.fixture(scope="module")
def model():
    return loading.load(runs.TINY, Compute())


@pytest.fixture
def context(tokenizer):
    return context_of(None, is_dense=True, tokenizer=lambda: tokenizer)


@pytest.fixture
def mirror(tmp_path):
    """WikiText-2 and C4 as a mirror holds them."""
    wikitext = tmp_path / "mirror/Salesforce/wikitext/wikitext-2-raw-v1"
    wikitext.mkdir(parents=True)
    pq.write_table(pa.table({"text": ROWS}), wikitext / "test-00000-of-00001.parquet")
    c4 = tmp_path / "mirror/allenai/c4/en"
    c4.mkdir(parents=True)
    about = {"url": "u", "timestamp": "2019-04-25T12:57:54Z"}
    for name, pages in (
        ("c4-validation.00000-of-00008", ["a b", "c d"]),
        ("c4-train.00000-of-01024", ["long " * 200, "short"]),
    ):
        with gzip.open(c4 / f"{name}.json.gz", "wt") as file:
            file.writelines(json.dumps({"text": page} | about) + "\n" for page in pages)
    return tmp_path / "mirror"


class Bytes:
    """One token a byte, so that windows can be counted by eye."""

    def __call__(self, text, return_offsets_mapping=False):
        ids = list(text.encode())
        return {"input_ids": ids, "offset_mapping": [(i, i + 1) for i in range(len(ids))]}


def naive(model, window):
    """-sum log p(x_t | x_<t) in float64, from whole logits. [seqlen] -> nats"""
    logits = model(input_ids=window[None]).logits[0, :-1].double()
    return float(-logits.log_softmax(-1)[torch.arange(len(window) - 1), window[1:]].sum())


@pytest.mark.numeric
@torch.no_grad()
def test_is_its_definition(model, context):
    got = Perplexity("wiki-mini", SEQLEN, windows=5).read(lambda: model, context)
    tokens, _ = windows.load_windows("wiki-mini", context.tokenizer(), SEQLEN, 5, None)
    want = [naive(model, w) for w in tokens]

    assert [i.value for i in got.items] == pytest.approx(want, rel=1e-5)
    assert {i.weight for i in got.items} == {SEQLEN - 1}
    assert got.values[0].value == pytest.approx(math.exp(sum(want) / (5 * (SEQLEN - 1))), rel=1e-5)
    assert (got.values[0].n, got.tokens) == (5, 5 * SEQLEN)
    # The standard error is the delta method's: exp(m) times the standard error of the mean m of the
    # windows.
    losses = torch.tensor([i.value / i.weight for i in got.items], dtype=torch.float64)
    stderr = float(losses.mean().exp() * losses.std() / math.sqrt(5))
    assert got.values[0].stderr == pytest.approx(stderr, rel=1e-6)


@pytest.mark.parametrize(("logit", "expected"), [(math.nan, math.nan), (2000.0, math.inf)])
def test_nan_stays_nan_and_a_large_loss_is_infinite(logit, expected):
    reader = WindowLosses(Windows(torch.zeros(1, 2, dtype=torch.int64), ["0"]))
    reader.take(LogitPart(1, 1, slice(0, 1), torch.tensor([0]), torch.tensor([[0.0, logit]]), None))
    assert reader.finish().values[0].value == pytest.approx(expected, nan_ok=True)


def test_one_window_has_no_standard_error(model, context):
    (found,) = Perplexity("wiki-mini", SEQLEN, windows=1).read(lambda: model, context).values
    assert found.stderr is None


@pytest.mark.numeric
@pytest.mark.parametrize(("logits_bytes", "part_bytes"), [(1, 1), (4 * 1024 * 7, 4 * 1024 * 3)])
def test_chunks_change_nothing(model, context, monkeypatch, logits_bytes, part_bytes):
    cut = Windows(*windows.load_windows("wiki-mini", context.tokenizer(), SEQLEN, 3, None))

    def losses(batch):
        reader = WindowLosses(cut)
        measured = forward.forward_windows(lambda: model, None, cut.tokens, batch, context)
        for part in logit_parts(measured, cut.tokens, context.compute.device):
            reader.take(part)
        return reader.losses

    whole = losses(3)
    monkeypatch.setattr(forward, "LOGITS_BYTES", logits_bytes)
    monkeypatch.setattr(forward, "PART_BYTES", part_bytes)
    assert losses(2) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(("name", "dropped"), [("wikitext2", ""), ("wikitext2-stripped", "\n")])
def test_windows_do_not_overlap_and_the_tail_is_dropped(mirror, name, dropped):
    text = "\n\n".join(r.rstrip(dropped) if dropped else r for r in ROWS).encode()
    seqlen = 20
    assert len(text) % seqlen
    got, _ = windows.load_windows(name, Bytes(), seqlen, None, mirror)
    two, _ = windows.load_windows(name, Bytes(), seqlen, 2, mirror)
    assert got.flatten().tolist() == list(text[: len(text) // seqlen * seqlen])
    assert two.tolist() == got[:2].tolist()


def test_clusters_are_articles(mirror):
    """By the title row before the window's first token; a section's heading is no title."""
    text = "\n\n".join(ROWS)
    got, clusters = windows.load_windows("wikitext2", Bytes(), 6, None, mirror)
    second = text.index(" = Second = ")
    assert clusters == ["1" if 6 * k >= second else "0" for k in range(len(got))]
    assert set(clusters) == {"0", "1"}


def test_c4_is_read_from_a_mirror(mirror):
    got, _ = windows.load_windows("c4", Bytes(), 7, None, mirror)
    assert bytes(got.flatten().tolist()) == b"a b c d"
    assert list(corpora.documents("c4", "calibration", mirror)) == ["long " * 200, "short"]


@pytest.mark.parametrize("content", [b"PAR1 and no more", None])
def test_a_damaged_corpus_is_named(mirror, content):
    (path,) = corpora.files("wikitext2", "evaluation", mirror)
    if content:
        path.write_bytes(content)
    else:
        pq.write_table(pa.table({"txt": ROWS}), path)
    with pytest.raises(UserError, match=rf"wikitext2: {path} cannot be read .* bench pull"):
        corpora.documents("wikitext2", "evaluation", mirror)


@pytest.mark.parametrize(
    ("seqlen", "count", "said"),
    [
        (1000, None, r"has \d+ tokens, not one window of perplexity.seqlen=1000"),
        (20, 100, r"has \d windows of 20 tokens, not perplexity.windows=100"),
    ],
)
def test_no_window_and_more_windows_than_there_are_are_errors_with_the_count(
    mirror, seqlen, count, said
):
    """The protocol's name would claim what was not measured."""
    with pytest.raises(UserError, match=f"wikitext2 {said}"):
        windows.load_windows("wikitext2", Bytes(), seqlen, count, mirror)


@pytest.mark.parametrize(
    "split", ["evaluation", pytest.param("validation", marks=pytest.mark.full)]
)
def test_windows_are_counted_beforehand_as_they_are_cut(tokenizer, split):
    there = len(windows.load_windows("wiki-mini", tokenizer, SEQLEN, None, None, split)[0])
    facts = read_tokenizer_facts(runs.TINY)
    windows.check_windows("wiki-mini", SEQLEN, there, facts, None, split)
    with pytest.raises(UserError, match=f"wiki-mini has {there} windows of {SEQLEN}"):
        windows.check_windows("wiki-mini", SEQLEN, there + 1, facts, None, split)


def test_bytes_are_counted_where_tokens_would_take_long(mirror, monkeypatch):
    """A token is a byte at least."""
    size = len("\n\n".join(ROWS).encode())
    lots = dataclasses.replace(corpora.CORPORA["wikitext2"], tokens=1)
    monkeypatch.setitem(corpora.CORPORA, "wikitext2", lots)
    rest = (read_tokenizer_facts(runs.TINY), mirror)
    windows.check_windows("wikitext2", 1, size, *rest, max_tokenized_bytes=10)
    with pytest.raises(UserError, match=f"wikitext2 has at most {size} windows"):
        windows.check_windows("wikitext2", 1, size + 3, *rest, max_tokenized_bytes=10)


def test_tokens_are_counted_to_the_end(tmp_path):
    """Some tokenizers' files ask for the beginning of a text alone."""
    about = json.loads((runs.TINY / "tokenizer.json").read_text())
    about["truncation"] = {"direction": "Right", "max_length": 9, "stride": 0}
    about["truncation"]["strategy"] = "LongestFirst"
    (tmp_path / "tokenizer.json").write_text(json.dumps(about))
    windows.check_windows("wiki-mini", SEQLEN, 1000, read_tokenizer_facts(tmp_path), None)


def test_few_windows_are_granted_without_a_look():
    windows.check_windows("wikitext2", 2048, 30, read_tokenizer_facts(Path("nowhere")), None)


def encode(text):
    return list(text.encode())


def test_calibration_crops_long_documents_alone_and_is_seeded(mirror):
    first, again, other = (
        windows.draw_calibration("c4", 20, 16, seed, encode, mirror) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert [len(c) for c in first] == [16] * 20 and len({tuple(c) for c in first}) > 1
    assert all(bytes(c) in ("long " * 200).encode() for c in first)


def test_no_document_is_long_enough(mirror):
    with pytest.raises(UserError, match=r"longer than calibration.seqlen=2000 .* has 1000:"):
        windows.draw_calibration("c4", 1, 2000, 0, encode, mirror)


def test_few_windows_are_spread_over_the_text(tokenizer):
    """An old record has no field `draw`: its windows are the first."""
    every, articles = windows.load_windows("wiki-mini", tokenizer, SEQLEN, None, None)
    some, own = windows.load_windows("wiki-mini", tokenizer, SEQLEN, 12, None, spread=True)
    chosen = [i * len(every) // 12 for i in range(12)]
    assert torch.equal(some, every[chosen]) and own == [articles[k] for k in chosen]
    assert len(set(own)) > 2 * len(set(articles[:12]))
    labels = [
        Perplexity("wiki-mini", SEQLEN, 12, draw=draw).protocol.label for draw in ("", "spread")
    ]
    assert labels == [f"wiki-mini@{SEQLEN}x12", f"wiki-mini@{SEQLEN}x12 spread"]


@pytest.mark.parametrize(
    ("given", "is_spread"),
    [({"windows": 8}, True), ({"windows": 8, "draw": "front"}, False), ({"windows": "all"}, False)],
)
def test_all_windows_and_those_of_the_front_keep_the_key_of_old_records(given, is_spread):
    """The settings that make an old record again say that its windows are the first."""
    about = {"models": (str(runs.TINY),), "methods": ("dense",), "measures": ("perplexity",)}
    one, *_ = make_plan(Spec(perplexity=given, **about)).measurements
    record = parse(new_record(one, status="failed", reason="x").to_json().encode(), "")
    again = reproduce.settings(record)["perplexity"]
    assert (record.key_inputs["measure"]["config"].get("draw") == "spread") == is_spread
    assert again.get("draw") == (None if given["windows"] == "all" else given.get("draw", "spread"))
    assert record.identity.protocol.label.endswith(" spread") == is_spread
