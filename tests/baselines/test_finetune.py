"""Fine-tuning with the zeros held: in the trainer, and from the command line."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers import runs
from helpers.models import sample
from helpers.trainings import counting, job_to_train, method, pruned, weight_of
from methods.contract.errors import UserError


@pytest.fixture
def task(make, make_job, tmp_path):
    def build(family="llama"):
        model = make(family)
        job = job_to_train(model, make_job, counting(), tmp_path / "work", steps=12)
        return pruned(model, job), job

    return build


@pytest.mark.parametrize("rank", sample([0, 4], 0))
def test_zeros_stay_and_the_text_is_learned(rank, task):
    """A product with the mask leaves negative zeros. The check of an artifact counts them."""
    model, job = task()
    zeros = {t: weight_of(model, t) == 0 for t in job.targets}
    for target in job.targets:
        weight_of(model, target).masked_fill_(zeros[target], -0.0)

    outcome = method("finetune", rank=rank).apply(copy.deepcopy(model), job)

    for target in job.targets:
        weight = weight_of(outcome.model, target)
        assert torch.equal(weight == 0, zeros[target]), target
        assert not weight[zeros[target]].signbit().any(), target
    found = outcome.notes["validation_perplexity"]
    assert found["end"] < found["start"]
    assert not any("parametrizations" in n for n, _ in outcome.model.named_parameters())


@pytest.mark.full
def test_low_rank_touches_targets_alone_and_merges_what_was_trained(task):
    model, job = task()
    before = copy.deepcopy(model)

    outcome = method("finetune", rank=4).apply(model, job)

    assert outcome.changed == frozenset()
    for name, parameter in outcome.model.named_parameters():
        if name.removesuffix(".weight") in job.targets:
            keep = before.get_parameter(name) != 0
            update = (parameter - before.get_parameter(name))[keep]
            assert update.abs().max() > 0
        else:
            assert torch.equal(parameter, before.get_parameter(name)), name


def test_a_model_that_is_not_pruned(make, make_job, tmp_path):
    model = make("llama")
    job = job_to_train(model, make_job, counting(), tmp_path)
    with pytest.raises(UserError, match="breaks pattern 2:4 before fine-tuning"):
        method("finetune").apply(model, job)


def test_command(tmp_path, output, refused, cache, monkeypatch):
    runs.workers_here(monkeypatch)
    text = tmp_path / "mine.txt"
    text.write_text("The cat sat on the mat. " * 2000)
    results = tmp_path / "r"
    runs.run_here(runs.small(results, methods=("magnitude",), measures=("size",)))
    record = runs.records(results)["magnitude", None, "size"].key[:12]
    common = ("--data", text, "--device", "cpu", "--set=threads=1", "--set=training.tokens=1024")
    small = ("--set=training.batch=8", "--set=training.seqlen=64")

    first = ("--artifact", record, "--results", results, "--out", tmp_path / "a")
    out = output("finetune", *first, *common, *small)
    assert "pattern checked" in out and "start" in out and "end" in out
    second = ("--artifact", tmp_path / "a", "--rank", 2, "--out", tmp_path / "b")
    output("finetune", *second, *common, *small)

    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / x) for x in "ab")
    weights = [m.model.layers[0].mlp.up_proj.weight for m in (one, two)]
    assert torch.equal(weights[0] == 0, weights[1] == 0)
    assert (weights[0] == 0).float().mean() == 0.5

    for folder in (tmp_path / "cache/artifacts").iterdir():
        (folder / "config.json").unlink(missing_ok=True)
    third = ("--artifact", record, "--results", results, "--out", tmp_path / "c")
    assert "bench prune --method magnitude --model tiny" in refused("finetune", *third, *common)
