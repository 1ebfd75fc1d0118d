"""Wanda against its definition, weight by weight."""

import shutil
from dataclasses import replace

import pytest
import torch

from baselines.wanda import Wanda
from bench.inputs import loading
from helpers.layers import NEAR, first_block
from helpers.models import build, job_for, write
from helpers.oracles import largest
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.experts import experts_of
from methods.model.folder import Folder

pytestmark = pytest.mark.numeric


def naive(weight, x, n, m):
    """Keep the n of every m neighbours with the largest |W_ij| * ||X_j||. Refuse near ties."""
    score = weight.double().abs() * x.double().square().sum(0).sqrt()
    return weight.where(largest(score, n, m, NEAR), 0)


@pytest.mark.parametrize("text", ["2:4", "3:8", "50%", "30%"])
def test_first_block_is_the_definition(text, llama, make_job):
    """Unstructured, 16 of the 32 weights in each row are kept, or 22 (9.6 is rounded to 10)."""
    job = make_job(llama, text)
    dense = first_block(llama, job)

    Wanda().apply(llama, job)

    for name, (weight, x) in dense.items():
        m = job.pattern.m or weight.shape[1]
        n = job.pattern.n or m - round(m * job.pattern.sparsity)
        assert torch.equal(llama.get_submodule(name).weight, naive(weight, x, n, m)), name


@pytest.mark.parametrize("stream", [False, True])
@torch.inference_mode()
def test_router_weights_scale_the_inputs_of_experts(stream, tmp_path):
    model = build("gpt_oss")
    source = write(model, tmp_path / "source")
    job = job_for(model, source=source, workdir=tmp_path)
    path, experts = experts_of(model.model.layers[0])
    seen = []
    hook = experts.register_forward_pre_hook(lambda _, args: seen.append(args))
    model(input_ids=job.calibration, use_cache=False)
    hook.remove()
    ((hidden, chosen, weights),) = seen
    wanted, plain = {}, {}
    for number, expert in enumerate(experts):
        token, place = torch.where(chosen == number)
        x, first = hidden[token], expert.first.weight.clone()
        name = f"model.layers.0.{path}.{number}.gate_up_proj.weight"
        wanted[name] = naive(first, x * weights[token, place, None], 2, 4)
        plain[name] = naive(first, x, 2, 4)
    if stream:
        compute = Compute(stream=True, scratch=tmp_path)
        model, job = loading.load(source, compute), replace(job, compute=compute)

    made = Wanda(gate=True).apply(model, job).model

    if stream:
        shutil.copy(source / "config.json", made)
        found = {name: Folder(made).tensor(name) for name in wanted}
    else:
        found = made.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not all(torch.equal(wanted[name], plain[name]) for name in wanted)


def test_router_weights_need_routed_tokens(job, llama):
    with pytest.raises(UserError, match=r"leave calibration\.all_experts out"):
        Wanda(gate=True).apply(llama, replace(job, all_experts=True))


def test_input_that_is_no_number_raises(llama, job):
    llama.model.layers[0].input_layernorm.weight[0] = torch.nan
    with pytest.raises(FloatingPointError):
        Wanda().apply(llama, job)
