"""The common prefix with the dense model's greedy text against a text that both write token by
token until they part."""

import pytest
import torch

from bench.inputs import loading, windows
from bench.measures.continuation import NEW, Continuation
from helpers import runs
from helpers.measuring import context_of, near_tiny
from methods.contract.errors import UserError
from methods.contract.method import Compute

PROMPTS = 5
pytestmark = pytest.mark.usefixtures("cache")


def read(model, tmp_path, **changed):
    return Continuation("wiki-mini", PROMPTS).read(lambda: model, context_of(tmp_path, **changed))


def tokens_in_common(model, dense, text):
    """Let both write after a prompt [1, tokens], without a cache. Return after how many tokens they
    part."""
    for count in range(NEW):
        one, other = (
            side(input_ids=text, use_cache=False).logits[:, -1:].argmax(-1)
            for side in (model, dense)
        )
        if one != other:
            return count
        text = torch.cat([text, one], 1)
    return NEW


def test_it_is_where_two_texts_part(tmp_path):
    model, dense = near_tiny(0.02), loading.load(runs.TINY, Compute())
    tokenizer = loading.load_tokenizer(runs.TINY)
    every, articles = windows.load_windows("wiki-mini", tokenizer, 64, None, None)
    chosen = [i * len(every) // PROMPTS for i in range(PROMPTS)]
    expected = [tokens_in_common(model, dense, every[[i]]) for i in chosen]
    found = read(model, tmp_path)
    assert [i.value for i in found.items] == expected and 0 < min(expected) < max(expected)
    assert found.values[0].value == pytest.approx(sum(expected) / PROMPTS)
    assert found.items[-1].cluster_id == articles[chosen[-1]]


def test_settings_of_a_models_own_generation_change_nothing(tmp_path):
    """`generate` fills what a config leaves open from the model's own: every token would end a
    text, or be penalized."""

    def own():
        model = loading.load(runs.TINY, Compute())
        model.generation_config.eos_token_id = list(range(model.config.vocab_size))
        model.generation_config.repetition_penalty = 5.0
        return model

    assert read(own(), tmp_path, load_dense=own).values[0].value == NEW


def test_a_text_that_is_too_short_is_refused(tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("word " * 100)
    with pytest.raises(UserError, match="has 3 windows of 64 tokens, and continuation takes 5"):
        Continuation(str(text), PROMPTS).read(lambda: pytest.fail("loaded"), context_of(tmp_path))


def test_the_dense_row_is_measured(tmp_path):
    """The dense row is measured, because rounding to bfloat16 changes tokens. Another model stands
    for the rounding."""
    assert read(near_tiny(0.02), tmp_path, is_dense=True).values[0].value < NEW
