"""Packed scoring against one forward pass for each pair, on random models of every family."""

import pytest
import torch

from bench.measures import packed_scoring
from bench.measures.packed_scoring import find_obstacle, score
from helpers import models
from methods.model.families import FAMILIES
from methods.workshop.quantizing.inputs import round_inputs

MAX_LENGTH = 24


def make_pairs():
    """Contexts with several continuations, contexts that begin alike, too long ones, and a pair
    that is there twice."""
    dice = torch.Generator().manual_seed(0)

    def draw(count):
        return torch.randint(64, (count,), generator=dice).tolist()

    pairs = [(context, draw(n)) for context in (draw(12), draw(1), draw(9)) for n in (1, 1, 5, 3)]
    stem, end = draw(8), draw(4)
    pairs += [(stem + draw(n), end) for n in (1, 2)]
    pairs += [(stem, end), (stem, end[:2]), (stem, end[:2] + draw(3))]
    long = draw(40)
    pairs += [(long, draw(n)) for n in (1, 6, MAX_LENGTH)]
    pairs += [(long[:21], draw(4)), (long[:20], draw(4))]
    return [*pairs, pairs[2]]


PAIRS = make_pairs()


def score_alone(model, context, continuation):
    """ln p and the greedy flag, from the logits of a forward pass without a batch, a mask or
    positions."""
    ids = torch.tensor([(context + continuation)[-MAX_LENGTH - 1 :]])
    logits = model(input_ids=ids[:, :-1]).logits[0, -len(continuation) :].float()
    wanted = ids[0, -len(continuation) :]
    log_likelihood = logits.log_softmax(-1).gather(1, wanted[:, None]).sum()
    return float(log_likelihood), bool((logits.argmax(-1) == wanted).all())


def greedy_continuation(model, context, count):
    for _ in range(count):
        context = [*context, int(model(input_ids=torch.tensor([context])).logits[0, -1].argmax())]
    return context[-count:]


def agree(model, pairs, capacity, alone):
    """alone: what `score_alone` gives for each pair."""
    got = {number: answer for number, *answer in score(model, pairs, MAX_LENGTH, capacity)}
    assert sorted(got) == list(range(len(pairs)))
    for number, (log_likelihood, greedy) in enumerate(alone):
        assert got[number][0] == pytest.approx(log_likelihood, abs=1e-4, rel=0)
        assert got[number][1] is greedy
    return got


def test_every_family_is_packed():
    assert [family for family in FAMILIES if find_obstacle(models.build(family))] == []


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", models.sample(FAMILIES, "llama", "gpt2", "gemma2", "mixtral"))
def test_is_one_forward_for_each_pair(family, attention, monkeypatch):
    """With prefixes of 4 tokens, most pairs share one that runs separately."""
    if family in ("gemma2", "gpt_oss") and attention == "sdpa":
        pytest.skip("transformers has eager attention only: sdpa has neither caps nor sinks")
    model = models.build(family, attn_implementation=attention)
    greedy = ((PAIRS[0][0], 3), (PAIRS[8][0], 1))
    pairs = PAIRS + [(context, greedy_continuation(model, context, n)) for context, n in greedy]
    alone = [score_alone(model, *pair) for pair in pairs]

    for least in (4, 32):
        monkeypatch.setattr(packed_scoring, "LEAST_PREFIX", least)
        got = agree(model, pairs, 1000, alone)
        assert got[len(pairs) - 1][1] and got[len(pairs) - 2][1]
        assert got[len(PAIRS) - 1] == got[2]


def test_capacity_changes_no_answer():
    model = models.build("qwen3")
    alone = [score_alone(model, *pair) for pair in PAIRS]
    for capacity in (1, 30):
        agree(model, PAIRS, capacity, alone)


def count_inputs(module):
    """Return a list that receives the number of inputs of each call of a module."""
    sizes = []
    module.register_forward_pre_hook(lambda _, args: sizes.append(args[0].numel()))
    return sizes


def test_examples_before_every_question_run_once(monkeypatch):
    model = models.build("llama")
    monkeypatch.setattr(packed_scoring, "LEAST_PREFIX", 8)
    examples = list(range(20))
    pairs = [([*examples, k, 7], [k + 1, n]) for k in range(30, 40) for n in (3, 4)]
    sizes = count_inputs(model.get_input_embeddings())
    list(score(model, pairs, 64, 32))
    assert sizes[0] == 20 and sum(sizes) == 20 + 10 * 3


def test_no_forward_is_larger_than_the_capacity():
    model = models.build("llama")
    sizes = count_inputs(model.get_input_embeddings())
    list(score(model, PAIRS, MAX_LENGTH, 50))
    assert len(sizes) > 2 and max(sizes) <= 50
    assert sum(sizes) < sum(min(len(c) + len(t) - 1, MAX_LENGTH) for c, t in PAIRS)


def test_logits_are_computed_only_where_a_token_is_predicted():
    model = models.build("llama")
    inputs = count_inputs(model.get_output_embeddings())
    context = list(range(20))
    list(score(model, [(context, [1, 2, 3]), (context, [4]), (context, [1, 5])], MAX_LENGTH, 1000))
    assert sum(inputs) == 3 * 32  # after the context; after 1; after 1, 2


def test_inputs_rounded_token_by_token():
    """In float64, where no rounding of a product turns a rounding to int8."""
    model = models.build("llama").double()
    for name, module in model.named_modules():
        if name.endswith("proj"):
            round_inputs(module)
    agree(model, PAIRS, 64, [score_alone(model, *pair) for pair in PAIRS])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope dynamic"),
        ({"_attn_implementation": "flash_attention_2"}, "attention flash_attention_2"),
        ({"model_type": "gemma3"}, "architecture gemma3"),
    ],
    ids=str,
)
def test_what_cannot_be_packed_is_named(change, said):
    model = models.build("llama")
    for name, value in change.items():
        object.__setattr__(model.config, name, value)
    assert find_obstacle(model) == said
