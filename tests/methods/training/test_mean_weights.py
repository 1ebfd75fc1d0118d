"""The mean of the weights of a training's last steps."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers.trainings import method, pruned, weight_of
from methods.training.mean_weights import MeanWeights


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 1), (0.3, 3), (0.35, 4), (1.0, 10)])
def test_the_model_gets_the_mean_of_the_last_weights(share, count):
    model = nn.Linear(3, 2)
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    model.register_parameter("frozen", frozen)
    mean = MeanWeights(model, share, 10)
    walk = []
    for step in range(10):
        with torch.no_grad():
            model.weight += torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
        walk.append(model.weight.detach().clone())
        mean.add(step)

    mean.write()

    torch.testing.assert_close(model.weight.detach(), torch.stack(walk[-count:]).mean(0) if count else walk[-1])
    assert torch.equal(frozen, torch.ones(2))
    assert not mean.tensors


class Killed(Exception):
    pass


class Kill:
    """A progress that kills a training after some steps."""

    def __init__(self, at):
        self.at = at

    def advance(self, done, total, **figures):
        if done == self.at:
            raise Killed


@pytest.mark.parametrize("at", [2, 5])
@pytest.mark.parametrize("name", ["cast", "retrain"])
def test_a_training_that_averages_resumes_bit_for_bit(name, at, llama, task, tmp_path):
    """at: before and after the first step that counts."""
    job = task(llama, steps=8, budget={"log_every": 1})
    settings = {"average": 0.6, "final_lr_ratio": 0.2, "lr": 1e-2}
    start = pruned(llama, job) if name == "retrain" else llama
    last = method(name, **settings | {"average": 0.0}).apply(copy.deepcopy(start), job)
    straight = method(name, **settings).apply(copy.deepcopy(start), replace(job, workdir=tmp_path / "straight"))
    stopped = replace(job, workdir=tmp_path / "stopped", progress=Kill(at), budget=replace(job.budget, checkpoint_s=0))
    with pytest.raises(Killed):
        method(name, **settings).apply(copy.deepcopy(start), stopped)

    resumed = method(name, **settings).apply(copy.deepcopy(start), replace(stopped, progress=job.progress))

    assert resumed.notes == straight.notes
    assert straight.notes["curve"] == last.notes["curve"]
    for target in job.targets:
        assert job.pattern.violations(weight_of(straight.model, target)) == 0
        assert torch.equal(weight_of(straight.model, target), weight_of(resumed.model, target))
        assert not torch.equal(weight_of(straight.model, target), weight_of(last.model, target))
