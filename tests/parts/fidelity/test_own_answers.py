"""Fidelity along the dense model's own answers, against two texts that are written token by
token."""

import json
from types import SimpleNamespace

import pytest
import torch

from bench.inputs import loading
from bench.measures import generation
from bench.measures.continuation import Continuation
from bench.measures.generation import as_user, encode
from bench.parts.fidelity import greedy
from bench.parts.fidelity.own_answers import OwnAnswers
from bench.results.store import ReadOnlyStore
from helpers import runs
from helpers.measuring import context_of, near_tiny
from methods.contract.errors import UserError
from methods.contract.method import Compute

pytestmark = pytest.mark.usefixtures("cache")
PROMPTS, TOKENS = 5, 24


def read(model, folder, **changed):
    measure = OwnAnswers("wiki_continuation", PROMPTS, TOKENS)
    return measure.read(lambda: model, context_of(folder, **changed))


def written(model, prompt):
    """The greedy text after a prompt without a cache, and the logits of each token."""
    ids, logits = list(prompt), []
    for _ in range(TOKENS):
        logits.append(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double())
        ids.append(int(logits[-1].argmax()))
    return ids[len(prompt) :], logits


@pytest.mark.numeric
def test_it_is_two_texts_token_by_token(tmp_path):
    model, dense = near_tiny(0.05), loading.load(runs.TINY, Compute())
    got = read(model, tmp_path)
    lines = [json.loads(line) for line in open_questions()]
    prompts = encode(
        loading.load_tokenizer(runs.TINY), as_user([x["context"] for x in lines]), "", False
    )

    for item, prompt in zip(got.items, prompts, strict=True):
        text, logits = written(dense, prompt)
        end = text.index(0) + 1 if 0 in text else TOKENS
        own = model(input_ids=torch.tensor([prompt + text[: end - 1]])).logits[0, len(prompt) - 1 :]
        p, q = torch.stack(logits[:end]).log_softmax(-1), own.double().log_softmax(-1)
        kl = (p.exp() * (p - q)).sum(-1)
        same = q.argmax(-1) == torch.tensor(text[:end])
        assert item.value == pytest.approx(float(kl.mean()), rel=1e-3)
        assert item.beside["first_divergence"] == int(same.int().cumprod(0).sum())
        assert item.beside["position 1 to 15: kl"] == pytest.approx(float(kl[:15].sum()), rel=1e-3)
    assert {item.beside["whole_answers"] for item in got.items} <= {0.0, 1.0}
    until = [item.beside["first_divergence"] for item in got.items]
    assert min(until) < max(until)


def open_questions():
    from bench.inputs import wikimini

    text = (wikimini.FOLDER / "wiki_continuation.jsonl").read_text()
    return text.splitlines()[:PROMPTS]


def test_the_dense_model_answers_once(tmp_path, monkeypatch):
    model = near_tiny(0.02)
    first = read(model, tmp_path)
    monkeypatch.setattr(generation, "answer", lambda *_: pytest.fail("answered again"))
    assert read(model, tmp_path).items == first.items


def test_the_dense_model_follows_its_own_answers(tmp_path):
    got = read(loading.load(runs.TINY, Compute()), tmp_path)
    values = {reading.metric: reading.value for reading in got.values}
    assert values["whole_answers"] == 1 and values["answer_kl"] < 1e-6


def test_answers_in_a_batch_are_those_of_each_prompt_alone():
    """Padding on the left changes no token."""
    model = loading.load(runs.TINY, Compute())
    prompts = [[5, 6], [7], [90, 200, 300, 5, 6, 7, 8]]

    together = generation.answer(model, prompts, 9, "cpu")

    assert together == [generation.answer(model, [one], 9, "cpu")[0] for one in prompts]


def test_an_answer_ends_with_its_end_of_text():
    """Also in a batch with a longer one. Penalties of the model's own settings do not count."""
    model = loading.load(runs.TINY, Compute())
    prompts = [[5, 6], [7], [90, 200, 300]]
    model.generation_config.eos_token_id = None
    whole = generation.answer(model, prompts, 9, "cpu")
    end = whole[0][3]
    model.generation_config.eos_token_id = end
    model.generation_config.repetition_penalty = 5.0

    found = generation.answer(model, prompts, 9, "cpu")

    for short, long in zip(found, whole, strict=True):
        assert short == long[: long.index(end) + 1 if end in long else None]
    assert len(found[0]) < max(map(len, found))


def test_continuation_is_the_case_of_a_text(tmp_path):
    """Prompts of one length without an end of text give the numbers of `continuation`."""
    model = near_tiny(0.02)
    context = context_of(tmp_path)
    got = Continuation("wiki-mini", PROMPTS).read(lambda: model, context)

    def dense():
        found = loading.load(runs.TINY, Compute())
        found.generation_config.eos_token_id = None
        return found

    from bench.inputs import windows

    every, _ = windows.load_windows("wiki-mini", context.tokenizer(), 64, None, None)
    prompts = [every[i * len(every) // PROMPTS].tolist() for i in range(PROMPTS)]
    found = greedy.along_own_answers(
        lambda: model, context_of(tmp_path, load_dense=dense), prompts, 64
    )
    assert [one.beside["first_divergence"] for one in found] == [i.value for i in got.items]


class Chat:
    """A tokenizer with a template."""

    def apply_chat_template(self, messages, **_):
        return f"<{messages[0]['role']}>{messages[0]['content']}<assistant>"

    def __call__(self, texts, add_special_tokens):
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def test_a_chat_template_asks_as_a_user():
    (ids,) = encode(Chat(), as_user(["Hm?"]), "", True)
    assert "".join(map(chr, ids)) == "<user>Hm?<assistant>"


def test_a_run_has_a_row_of_it(tmp_path):
    spec = runs.small(
        tmp_path / "r",
        measures=("own_answers", "size"),
        own_answers={"limit": 4, "tokens": 16},
    )
    runs.run_here(spec)
    records = [r for r in ReadOnlyStore(spec.results) if r.identity.measure == "own_answers"]

    assert {r.identity.method for r in records} == {"dense", "magnitude"}
    for record in records:
        assert record.identity.protocol.label == "wiki_continuation@1x4 (16 tokens)"
        assert record.status == "ok" and record.items.rows == 4


def test_an_answer_longer_than_the_context_is_refused():
    facts = SimpleNamespace(positions=64, name="gpt")
    context = SimpleNamespace(
        facts=facts,
        require_tokenizer=lambda: None,
        run=SimpleNamespace(settings_of=lambda kind: kind()),
    )
    with pytest.raises(UserError, match=r"own_answers\.tokens=64 leaves no room for a prompt"):
        next(OwnAnswers.plan(context))
