"""Magnitude against its definition, weight by weight."""

import pytest
import torch

from baselines.magnitude import Magnitude
from helpers.oracles import largest


@pytest.mark.parametrize(("n", "m"), [(2, 4), (3, 8)])
def test_keeps_the_largest_of_each_group(n, m, llama, make_job):
    targets = ("model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj")
    job = make_job(llama, f"{n}:{m}", targets=targets)
    before = {t: llama.get_submodule(t).weight.clone() for t in job.targets}
    Magnitude().apply(llama, job)
    for name, weight in before.items():
        want = weight.where(largest(weight.abs(), n, m), 0)
        assert torch.equal(llama.get_submodule(name).weight, want), name


def test_unstructured_is_counted_per_layer(llama, make_job):
    """Rows may end up unequal; the layer as a whole keeps its share, and layers do not trade."""
    weight = llama.model.layers[0].self_attn.q_proj.weight
    weight[0] *= 100
    llama.model.layers[1].self_attn.q_proj.weight.mul_(100)
    before = weight.clone()

    Magnitude().apply(llama, make_job(llama, "70%"))

    threshold = before.abs().flatten().sort(descending=True).values[306]  # 30% of 1,024 is 307.2
    assert torch.equal(weight, before.where(before.abs() >= threshold, 0))
    assert int(weight[0].count_nonzero()) == 32
    assert int(llama.model.layers[1].self_attn.q_proj.weight.count_nonzero()) == 307
