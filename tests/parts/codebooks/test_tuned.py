"""Training between linears: what is stored is what is measured, only norms and biases change beside
it, and the outputs come nearer to the dense model's."""

import copy
from dataclasses import replace

import pytest
import torch

from bench.catalog.choice import build, parse_quantizer
from bench.catalog.entries import QUANTIZERS
from bench.parts.codebooks import tuned
from helpers import models
from methods.contract.errors import Skipped
from methods.contract.method import Compute
from methods.model.targets import dense_weight


def apply(text, model, **fields):
    choice = parse_quantizer(text)
    job = models.job_for(model, "dense", teacher=lambda: copy.deepcopy(model), **fields)
    return build(QUANTIZERS[choice.name], choice.name, choice.config).apply(
        copy.deepcopy(model), job
    )


def distance(outcome, model):
    """KL of the dense model's next tokens on the calibration sequences, per token."""
    tokens = models.job_for(model, "dense").calibration
    with torch.no_grad():
        got, want = (m(input_ids=tokens).logits.log_softmax(-1) for m in (outcome.model, model))
    return float((want.exp() * (want - got)).sum(-1).mean())


@pytest.mark.parametrize("family", models.sample(("llama", "gpt2", "gemma3_text"), "gpt2"))
def test_stored_tensors_give_the_measured_weights_and_norms_alone_change_beside(family, tmp_path):
    model = models.build(family)

    outcome = apply("tcq2:memory=9:tune=6", model)

    stored = models.store(outcome.stored, tmp_path)
    for target, one in stored.items():
        assert torch.equal(one.decode(), dense_weight(outcome.model.get_submodule(target)))
        parts = dict(one.parts)
        gain = parts.pop(tuned.GAIN).float()
        assert gain.ne(1).any()
        torch.testing.assert_close(one.codec.decode(parts) * gain[:, None], one.decode())
    before, after = model.state_dict(), outcome.model.state_dict()
    assert before.keys() == after.keys()
    weights = {f"{target}.weight" for target in stored}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert outcome.changed == moved - weights and outcome.changed
    assert all(before[name].dim() == 1 for name in outcome.changed)


def test_training_lowers_the_distance_in_the_blocks_and_at_the_end():
    model = models.build("llama")

    plain, blocks, whole = (
        apply(f"tcq2:memory=9:{fields}", model)
        for fields in ("tune=0", "tune=24:last_rate=0", "tune=24:last_rate=0.01")
    )

    assert distance(plain, model) > 1.1 * distance(blocks, model)
    assert distance(blocks, model) > 1.05 * distance(whole, model)
    assert whole.notes["kl"][-1] < whole.notes["kl"][0]


def test_weights_for_the_inputs_after_the_quantized_linears_are_nearer():
    model = models.build("llama")
    plain, nearer = (apply(f"tcq2:memory=9:asymmetry={share}", model) for share in (0, 0.5))
    assert distance(plain, model) > 1.05 * distance(nearer, model)


def test_a_step_is_a_sequence_and_every_pass_has_all():
    corpus = tuned.Sequences(torch.arange(12).view(4, 3), seed=0)
    steps = [corpus.batch(step) for step in range(8)]

    for first in (0, 4):
        assert sorted(torch.cat(steps[first : first + 4])[:, 0].tolist()) == [0, 3, 6, 9]
    assert corpus.step_tokens == 3 and corpus.tokens == 12


def test_models_that_cannot_be_tuned_are_refused():
    with pytest.raises(Skipped, match="tcq3 cannot tune a mixture of experts: use tune=0"):
        apply("tcq3:tune=1", models.build("qwen3_moe"))
    model = models.build("llama")
    streamed = replace(models.job_for(model).compute, stream=True)
    assert isinstance(streamed, Compute)
    with pytest.raises(Skipped, match="larger than the memory"):
        apply("tcq3:tune=1", model, compute=streamed)
