"""Every method on every family: the pattern holds along the inputs, and nothing else moved."""

import copy

import pytest
import torch

from bench.catalog import registry
from bench.catalog.choice import build
from helpers import runs
from helpers.models import CONFIGS, sample
from methods.model.targets import dense_weight

ONE_OF_EACH_WALK = ("magnitude", "wanda", "sparsegpt", "dsnot", "recon", "lowrank")
"""The others walk as Wanda or SparseGPT do."""


@pytest.fixture
def apply(refining):
    def run(name, model, job):
        method = build(registry.lookup("methods", name), name, runs.QUICK.get(name, {}))
        return method.apply(model, refining(model, job))

    return run


def bits(tensor):
    return tensor.contiguous().view(torch.int32)


@pytest.mark.parametrize("pattern", sample(["2:4", "50%"], "2:4"))
@pytest.mark.parametrize("family", sample(CONFIGS, "gpt2", "gpt_oss"))  # test_conformance has llama
@pytest.mark.parametrize("name", runs.PRUNERS)
def test_prunes_its_targets_and_nothing_else(family, name, pattern, apply, make, make_job):
    model = make(family)
    before = copy.deepcopy(model)
    job = make_job(model, pattern)

    outcome = apply(name, model, job)

    after = outcome.model
    weights = {target + ".weight" for target in job.targets}
    assert after.state_dict().keys() == before.state_dict().keys()
    for key, tensor in after.state_dict().items():
        if key not in weights | outcome.changed:
            assert torch.equal(bits(tensor), bits(before.state_dict()[key])), key
    for target in job.targets:
        weight = dense_weight(after.get_submodule(target))  # [out, in]
        half = weight.numel() // 2
        if pattern == "2:4":
            assert (weight.unflatten(1, (-1, 4)).count_nonzero(-1) == 2).all(), target
            along_outputs = weight.T.unflatten(1, (-1, 4)).count_nonzero(-1)
            assert (along_outputs > 2).any(), target
        else:
            assert abs(int(weight.count_nonzero()) - half) <= 2, target
        assert not (weight.signbit() & (weight == 0)).any(), target


@pytest.mark.parametrize("name", sample(runs.PRUNERS, *ONE_OF_EACH_WALK))
def test_only_the_named_targets(name, apply, llama, make_job):
    before = copy.deepcopy(llama.state_dict())
    job = make_job(llama, targets=("model.layers.1.mlp.up_proj",))
    outcome = apply(name, llama, job)
    after = outcome.model.state_dict()
    changed = [key for key, tensor in after.items() if not torch.equal(tensor, before[key])]
    assert set(changed) - outcome.changed == {"model.layers.1.mlp.up_proj.weight"}
