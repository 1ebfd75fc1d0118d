"""Depth against plain loops, and what may follow it."""

from itertools import combinations
from math import exp

import pytest
import torch
from transformers import LlamaConfig

from baselines.depth import Depth, SetLosses, drop_greedily, influences, search
from helpers.layers import block_calls
from helpers.models import CONFIGS, GROUPED, REPRESENTATIVES, build, job_for, sample
from methods.workshop.training.compiled import blocks_of


def naive_influences(model, tokens):
    """Token by token, from the inputs and outputs that one pass of the whole model has."""
    out = []
    for call in block_calls(model, tokens):
        x, y = (part.double().flatten(0, 1) for part in call)
        cosines = [float(a @ b) / float(a.norm() * b.norm()) for a, b in zip(x, y, strict=True)]
        out.append(1 - sum(cosines) / len(cosines))
    return out


@pytest.mark.parametrize("family", sample(REPRESENTATIVES, "llama", "gpt2"))
@torch.inference_mode()
def test_influence_is_the_definition(family):
    model = build(family)
    job = job_for(model)
    expected = naive_influences(model, job.calibration)
    assert influences(model, job) == pytest.approx(expected, abs=1e-5)
    least = min(range(3), key=expected.__getitem__)
    kept = Depth(drop=1).apply(model, job).kept["blocks"]
    assert kept == tuple(i for i in range(3) if i != least)


def naive_loss(model, tokens, without):
    """Mean cross-entropy with the blocks `without` as identities."""

    def pass_on(_module, args, output):
        return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]

    handles = [blocks_of(model)[i].register_forward_hook(pass_on) for i in without]
    log_p = model(input_ids=tokens, use_cache=False).logits.double().log_softmax(-1)
    for handle in handles:
        handle.remove()
    return -float(log_p[:, :-1].gather(2, tokens[:, 1:, None]).mean())


@torch.inference_mode()
def test_perplexity_removes_one_at_a_time():
    model = build("llama")
    job = job_for(model)
    gone, after = [], []
    for _ in range(2):
        left = set(range(3)).difference(gone)
        losses = {i: naive_loss(model, job.calibration, [*gone, i]) for i in left}
        gone.append(min(losses, key=losses.__getitem__))
        after.append(exp(losses[gone[-1]]))

    outcome = Depth(drop=2, by="perplexity").apply(model, job)

    assert outcome.notes["blocks"] == {"of": 3, "removed": gone}
    assert outcome.notes["perplexity_after_each"] == pytest.approx(after, rel=1e-4)
    assert len(blocks_of(model)) == 3


@torch.inference_mode()
def test_search_of_few_blocks_tries_all_sets():
    model = build("llama")
    job = job_for(model)
    losses = {pair: naive_loss(model, job.calibration, pair) for pair in combinations(range(3), 2)}
    best = min(losses, key=losses.__getitem__)

    outcome = Depth(drop=2, by="search").apply(model, job)

    assert outcome.notes["blocks"] == {"of": 3, "removed": list(best)}
    assert outcome.notes["search"]["perplexity"] == pytest.approx(exp(losses[best]), rel=1e-4)
    assert outcome.notes["search"]["sets"] == 3


def pairs_matter(removed):
    """A loss in which the greedy choice is a trap: the best four of ten are 5, 6, 7 and 8."""
    removed = set(removed)
    bonus = 2.0 * len(removed & {5, 6, 7, 8}) ** 2 + 15 * (0 in removed)
    return sum(10 - i for i in removed) - bonus


def test_search_leaves_the_trap_of_the_greedy_choice():
    best = min(map(frozenset, combinations(range(10), 4)), key=pairs_matter)
    start = frozenset(drop_greedily(pairs_matter, 10, 4))
    assert start != best

    found = [search(pairs_matter, start, 10, 150, seed) for seed in (0, 0, 1)]

    assert found == [best] * 3
    assert len({search(pairs_matter, start, 10, 16, seed) for seed in range(4)}) > 1
    ended = [pairs_matter(search(pairs_matter, start, 10, 5, seed)) for seed in range(20)]
    assert max(ended) <= pairs_matter(start)


@torch.inference_mode()
def test_search_is_no_worse_than_both_choices(monkeypatch):
    monkeypatch.setitem(CONFIGS, "five", lambda: LlamaConfig(**GROUPED | {"num_hidden_layers": 5}))
    model = build("five")
    job = job_for(model)
    blocks = list(blocks_of(model))

    notes = Depth(drop=2, by="search", evaluations=9).apply(model, job).notes

    about, removed = notes["search"], notes["blocks"]["removed"]
    assert about["perplexity"] <= min(about["starts"].values())
    wanted = exp(naive_loss(model, job.calibration, removed))
    assert about["perplexity"] == pytest.approx(wanted, rel=1e-4)
    assert list(blocks_of(model)) == blocks


@torch.inference_mode()
def test_a_set_is_measured_once_and_faults_leave_the_model_whole(monkeypatch):
    model = build("llama")
    blocks = list(blocks_of(model))
    losses = SetLosses(model, job_for(model), 3)

    assert losses([0, 2]) == losses([2, 0])
    assert losses.count == 1
    monkeypatch.setattr("baselines.depth.loss", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        losses([1])
    assert list(blocks_of(model)) == blocks


@pytest.mark.parametrize("by", ["influence", "perplexity", "search"])
def test_dropping_no_block_keeps_all(by):
    model = build("llama")
    outcome = Depth(drop=0, by=by).apply(model, job_for(model))
    assert outcome.kept["blocks"] == (0, 1, 2)
    assert outcome.model is model
