"""Wanda against its definition, weight by weight."""

import copy

import pytest
import torch

from baselines.wanda import Wanda, squared_norm
from helpers.layers import NEAR, first_block

pytestmark = pytest.mark.numeric


def naive(weight, x, n, m):
    """Of every m neighbours the n with the largest |W_ij| * ||X_j|| stay. None of these weights is a near tie."""
    norm = x.double().square().sum(0).sqrt()
    out = torch.zeros_like(weight)
    for i in range(weight.shape[0]):
        for start in range(0, weight.shape[1], m):
            score = {j: abs(float(weight[i, j])) * float(norm[j]) for j in range(start, start + m)}
            order = sorted(score, key=lambda j: (-score[j], j))
            assert score[order[n]] < (1 - NEAR) * score[order[n - 1]]
            for j in order[:n]:
                out[i, j] = weight[i, j]
    return out


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (16, 32)])
def test_first_block_is_the_definition(n, m, llama, make_job):
    job = make_job(llama, f"{n}:{m}")
    dense = first_block(llama, job)

    Wanda().apply(llama, job)

    for name, (weight, x) in dense.items():
        assert torch.equal(llama.get_submodule(name).weight, naive(weight, x, n, m)), name


@pytest.mark.parametrize("text", ["50%", "30%"])
def test_unstructured_is_counted_per_row(text, llama, make_job):
    """A row of 32 is then one group of which 16 stay, or 22 (9.6 to go is rounded to 10)."""
    job = make_job(llama, text)
    dense = first_block(llama, job)

    Wanda().apply(llama, job)

    for name, (weight, x) in dense.items():
        width = weight.shape[1]
        kept = width - round(width * job.pattern.sparsity)
        assert torch.equal(llama.get_submodule(name).weight, naive(weight, x, kept, width)), name


@pytest.mark.parametrize("pattern", ["2:4", "50%"])
def test_scale_of_inputs_of_weights_and_of_a_row_does_not_matter(pattern, llama, make_job):
    job = make_job(llama, pattern)
    other = copy.deepcopy(llama)
    attention = other.model.layers[0].self_attn
    other.model.layers[0].input_layernorm.weight *= 4
    attention.k_proj.weight *= 2
    attention.q_proj.weight[5] *= 64

    for model in (llama, other):
        Wanda().apply(model, job)

    plain = llama.model.layers[0].self_attn
    assert torch.equal(attention.k_proj.weight, 2 * plain.k_proj.weight)
    assert torch.equal(attention.v_proj.weight, plain.v_proj.weight)
    assert torch.equal(attention.q_proj.weight != 0, plain.q_proj.weight != 0)


def test_inputs_equally_loud_make_it_magnitude(llama, job):
    """Embeddings of plus and minus one: after the norm every feature has one size."""
    llama.model.embed_tokens.weight.copy_(torch.randn(64, 32).sign())
    llama.model.layers[0].input_layernorm.weight.fill_(1)
    weight = llama.model.layers[0].self_attn.v_proj.weight.clone()

    Wanda().apply(llama, job)

    assert torch.equal(llama.model.layers[0].self_attn.v_proj.weight, weight * job.pattern.keep(weight.abs()))


def test_silent_inputs_go_first(llama, job):
    llama.model.layers[0].input_layernorm.weight[[4, 6]] = 0
    weight = llama.model.layers[0].self_attn.q_proj.weight
    weight[:, [4, 6]] = 100
    before = weight.clone()

    Wanda().apply(llama, job)

    assert (weight[:, [4, 6]] == 0).all()
    assert torch.equal(weight[:, [5, 7]], before[:, [5, 7]])


def test_energy_adds_up():
    x, y = torch.randn(9, 4), torch.randn(3, 4)

    torch.testing.assert_close(squared_norm(y, squared_norm(x, None)), torch.cat([x, y]).norm(dim=0) ** 2)


def test_input_that_is_no_number_raises(llama, job):
    llama.model.layers[0].input_layernorm.weight[0] = torch.nan

    with pytest.raises(FloatingPointError):
        Wanda().apply(llama, job)
