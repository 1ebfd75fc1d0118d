"""Contract of every method that solves a least-squares problem per layer."""

import copy

import pytest
import torch

from baselines.admm import Admm
from baselines.alps import Alps
from baselines.sparsegpt import SparseGPT

pytestmark = pytest.mark.numeric
each = pytest.mark.parametrize("kind", [SparseGPT, Alps, Admm])


@each
def test_a_dense_pattern_changes_nothing(kind, llama, make_job):
    before = copy.deepcopy(llama.state_dict())
    after = kind().apply(llama, make_job(llama, "dense")).model.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)


@each
def test_dead_inputs_lose_their_weights(kind, llama, job):
    llama.model.layers[1].input_layernorm.weight[[2, 9, 10, 11]] = 0
    kind().apply(llama, job)
    for x in "qkv":
        weight = getattr(llama.model.layers[1].self_attn, f"{x}_proj").weight
        assert (weight[:, [2, 9, 10, 11]] == 0).all()
        assert (weight[:, 0:4].count_nonzero(-1) == 2).all()
        assert (weight[:, 8] != 0).all()


@pytest.mark.parametrize("kind", [SparseGPT, Admm])
def test_powers_of_two_scale_to_the_bit(kind, llama, job):
    """Inputs four times as large change nothing."""
    louder, larger = copy.deepcopy(llama), copy.deepcopy(llama)
    louder.model.layers[0].input_layernorm.weight *= 4
    larger.model.layers[0].self_attn.q_proj.weight *= 2

    plain, loud, large = (
        kind().apply(m, job).model.model.layers[0].self_attn for m in (llama, louder, larger)
    )

    assert torch.equal(loud.q_proj.weight, plain.q_proj.weight)
    assert torch.equal(loud.k_proj.weight, plain.k_proj.weight)
    assert torch.equal(large.q_proj.weight, 2 * plain.q_proj.weight)


@each
def test_raised_damping_is_noted(kind, llama, make_job):
    """8 tokens do not make a 32 x 32 Hessian positive definite."""
    job = make_job(llama, calibration=torch.arange(8)[None])
    fine = kind().apply(copy.deepcopy(llama), job)

    starved = kind(damping=0).apply(llama, job)

    assert "damping_raised" not in fine.notes
    assert set(starved.notes["damping_raised"]) <= set(job.targets)
    assert "model.layers.0.self_attn.k_proj" in starved.notes["damping_raised"]
    assert all(0 < value <= 1 for value in starved.notes["damping_raised"].values())
    assert all(parameter.isfinite().all() for parameter in llama.parameters())
