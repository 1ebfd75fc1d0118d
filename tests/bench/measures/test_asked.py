"""Questions with a right answer, on tiny."""

import math

import pytest
import torch

from bench.inputs import loading, rounded_cache
from bench.measures import asked, generation
from bench.measures.asked import Questions
from helpers import runs
from helpers.measuring import context_of
from methods.contract.method import Compute

PROMPTS = ([5, 90, 200, 31, 7], [6, 44, 12], [8, 9, 300, 301])
TEXTS = [" the river", " a town of", " the river"]


def bits(model, tokenizer, prompt, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    chosen = logits.log_softmax(-1)[range(len(ids)), ids].sum()
    return -float(chosen) / math.log(2) / len(text)


@pytest.mark.parametrize("cache_bits", [None, 8])
def test_bits_gain_score_and_floor(tmp_path, cache_bits):
    """Also with rounded keys and values."""
    model, tokenizer = loading.load(runs.TINY, Compute()), loading.load_tokenizer(runs.TINY)
    if cache_bits:
        rounded_cache.round_cache(model, cache_bits)
    wanted = generation.decode(tokenizer, generation.answer(model, PROMPTS, 6, "cpu"))
    questions = Questions(
        "ruler", ["a", "b", "c"], PROMPTS, TEXTS, 6, lambda k, text: float(text == wanted[k])
    )
    got = asked.ask(questions, lambda: model, context_of(tmp_path), 64)

    for item, prompt, text, other in zip(
        got.items, PROMPTS, TEXTS, (TEXTS[1], TEXTS[2], TEXTS[1]), strict=True
    ):
        own = bits(model, tokenizer, prompt, text)
        assert item.value == pytest.approx(own, rel=1e-3)
        gain = bits(model, tokenizer, prompt, other) - own
        assert item.beside["ruler_gain"] == pytest.approx(gain, abs=2e-3)
    values = {reading.metric: reading.value for reading in got.values}
    assert values["ruler_score"] == 1 and got.notes["chance"] == 0
    assert list(got.notes["answers"].values()) == wanted


def test_a_score_alone_has_no_bits(tmp_path):
    model = loading.load(runs.TINY, Compute())
    questions = Questions("bfcl", ["a"], PROMPTS[:1], (), 4, lambda k, text: 1.0, 1.0)
    got = asked.ask(questions, lambda: model, context_of(tmp_path), 64)
    assert [reading.metric for reading in got.values] == ["bfcl_score"]
    assert got.items[0].value == 1 and got.notes["chance"] == 1
