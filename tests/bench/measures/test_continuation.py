"""The common prefix with the dense model's greedy text against two texts that are written token by token."""

import pytest
import torch

from bench.inputs import loading, windows
from bench.measures.continuation import NEW, Continuation
from helpers import runs
from helpers.measuring import context_of, near_tiny
from methods.contract import Compute

PROMPTS = 5
pytestmark = pytest.mark.usefixtures("cache")


def read(model, tmp_path, **changed):
    return Continuation("wiki-mini", PROMPTS).read(lambda: model, context_of(tmp_path, **changed))


def write(model, ids):
    """Write token by token after prompts [prompts, tokens], without a cache."""
    for _ in range(NEW):
        ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids[:, -NEW:].tolist()


def test_it_is_where_two_texts_part(tmp_path):
    model, dense = near_tiny(0.02), loading.load(runs.TINY, Compute())
    every, articles = windows.load_windows("wiki-mini", loading.load_tokenizer(runs.TINY), 64, None, None)
    chosen = [i * len(every) // PROMPTS for i in range(PROMPTS)]
    texts = zip(*(write(side, every[chosen]) for side in (model, dense)), strict=True)
    expected = [next((i for i, (a, b) in enumerate(zip(*both, strict=True)) if a != b), NEW) for both in texts]

    found = read(model, tmp_path)

    assert [i.value for i in found.items] == expected and 0 < min(expected) < max(expected)
    assert found.values[0].value == pytest.approx(sum(expected) / PROMPTS)
    assert found.items[-1].cluster_id == articles[chosen[-1]]


def test_a_model_agrees_with_itself(tmp_path):
    assert read(loading.load(runs.TINY, Compute()), tmp_path).values[0].value == NEW


def test_the_dense_row_is_measured(tmp_path):
    """The dense row is measured, because rounding to bfloat16 changes tokens. Another model stands for the rounding."""
    assert read(near_tiny(0.02), tmp_path, is_dense=True).values[0].value < NEW
