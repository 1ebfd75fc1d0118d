"""Experts as separate linears, in files of both kinds, pruned by the tokens that reach them."""

import copy
import itertools

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from baselines.wanda import squared_norm as squares
from bench.catalog import registry
from bench.catalog.choice import build
from bench.inputs import architecture, loading
from helpers import models
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.families import FAMILIES
from methods.model.folder import Folder
from methods.workshop.pruning.walk import Walk

MIXTURES = [name for name, family in FAMILIES.items() if family.experts]


@pytest.fixture(params=models.sample(MIXTURES, "gpt_oss", "qwen3_moe"))
def mixture(request):
    return request.param


def prune(name, model, job):
    return build(registry.lookup("methods", name), name, {}).apply(model, job)


def theirs(family):
    """transformers' own class, with one tensor of all experts."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(models.CONFIGS[family]()).eval().requires_grad_(False)


def test_files_of_either_kind_are_one_model(mixture, tmp_path):
    """transformers saves linears of each expert, or one tensor of all."""
    model = theirs(mixture)
    model.save_pretrained(tmp_path / "published")
    models.write(model, tmp_path / "fused")

    published, fused = Folder(tmp_path / "published"), Folder(tmp_path / "fused")

    assert set(published) == set(fused)
    assert published.shapes() == fused.shapes()
    assert all(torch.equal(published.tensor(name), fused.tensor(name)) for name in fused)
    architecture.check(published)
    for folder in (published, fused):
        streamed = loading.load(folder.path, Compute(stream=True))
        whole = loading.load(folder.path, Compute())
        assert streamed.state_dict().keys() == whole.state_dict().keys() == set(fused)
        assert all(torch.equal(whole.state_dict()[name], fused.tensor(name)) for name in fused)


def test_an_expert_that_is_not_whole_is_refused(tmp_path):
    theirs("mixtral").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.block_sparse_moe.experts.2.w3.weight"]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"experts.2.gate_up_proj.weight .* is \[64, 32\]"):
        architecture.check(Folder(tmp_path))


@pytest.mark.parametrize("method", models.sample(["magnitude", "wanda", "sparsegpt"], "magnitude"))
def test_masks_of_a_fused_tensor_are_those_of_separate_linears(method, mixture, make_job, tmp_path):
    model = models.write(theirs(mixture), tmp_path / "fused")
    loaded = loading.load(model, Compute())
    job = make_job(loaded)
    before = copy.deepcopy(loaded)
    outcome = prune(method, loaded, job)
    models.write(outcome.model, tmp_path / "pruned")
    family = FAMILIES[mixture]
    stacked = load_file(tmp_path / "pruned/model.safetensors")

    for linear in family.experts.linears:
        for i in range(3):
            path = f"{family.blocks}.{i}.{family.experts.path}"
            for number, one in enumerate(stacked[f"{path}.{linear}"]):
                module = outcome.model.get_submodule(f"{path}.{number}.{linear}")
                one = one.T if family.experts.transposed else one
                assert torch.equal(one, module.weight)
                assert (one.unflatten(1, (-1, 4)).count_nonzero(-1) == 2).all()
    if method == "magnitude":
        for target in job.targets:
            keep = job.pattern.keep(before.get_submodule(target).weight.abs())
            assert torch.equal(outcome.model.get_submodule(target).weight != 0, keep), target


def test_wandas_statistic_is_that_of_an_experts_own_tokens(mixture, make, make_job):
    """Compare with a loop over tokens, and with the expert's own inputs of its second linear."""
    model, family = make(mixture), FAMILIES[mixture]
    job = make_job(model)
    walked = {}
    walk = Walk(model, job, squares)
    for visit in walk:
        walked[visit.name] = visit.stat

    notes = walk.outcome().notes["experts"]
    for i in range(3):
        path = f"{family.blocks}.{i}.{family.experts.path}"
        seen = []
        layer = model.get_submodule(path)
        handle = layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args))
        with torch.no_grad():
            model(input_ids=job.calibration, use_cache=False)
        handle.remove()
        ((hidden, chosen, _),) = seen
        first, second = family.experts.linears
        for number, expert in enumerate(layer):
            mine = hidden[(chosen == number).any(1)]
            assert notes["tokens"][f"{path}.{number}"] == len(mine)
            inner = [expert._gate(expert.gate_up_proj(x)) for x in mine]
            for linear, inputs in ((first, mine), (second, inner)):
                name = f"{path}.{number}.{linear}"
                width = expert.get_submodule(linear).weight.shape[1]
                few = len(mine) < width
                assert (name in notes["by_weights_alone"]) == few
                want = torch.ones(width) if few else sum(x.square() for x in inputs)
                torch.testing.assert_close(walked[name], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_an_expert_without_tokens_is_pruned_by_magnitude(method, make, make_job):
    model = make("mixtral")
    real = torch.topk

    def never_two(x, k, dim):
        return real(x.index_fill(-1, torch.tensor([2]), -1), k, dim=dim)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "topk", never_two)
        before = copy.deepcopy(model)
        job = make_job(model)
        outcome = prune(method, model, job)

    notes = outcome.notes["experts"]
    for i in range(3):
        assert notes["tokens"][f"model.layers.{i}.mlp.experts.2"] == 0
        for linear in ("gate_up_proj", "down_proj"):
            name = f"model.layers.{i}.mlp.experts.2.{linear}"
            assert name in notes["by_weights_alone"]
            was = before.get_submodule(name).weight
            keep = job.pattern.keep(was.abs())
            assert torch.allclose(outcome.model.get_submodule(name).weight, was * keep, atol=1e-6)
    targets = {t + ".weight" for t in job.targets}
    for name, tensor in outcome.model.state_dict().items():
        assert name in targets or torch.equal(tensor, before.state_dict()[name]), name


def test_with_all_experts_every_expert_sees_every_token(mixture, make, make_job):
    """And what leaves the layer is the same."""
    model = make(mixture)
    job = make_job(model, all_experts=True)
    plain = {v.name: v.stat for v in Walk(model, make_job(model), squares)}
    walk, walked = Walk(model, job, squares), {}
    for visit in walk:
        walked[visit.name] = visit.stat

    of_one = [id(stat) for stat in walked.values()]
    runs = list(itertools.groupby(of_one))
    assert len(runs) == len(set(of_one)) < len(of_one), "each is factored once"
    notes = walk.outcome().notes["experts"]
    assert set(notes["tokens"].values()) == {job.calibration.numel()}
    assert notes["all_tokens"] is True and notes["by_weights_alone"] == []
    path = f"{FAMILIES[mixture].blocks}.1.{FAMILIES[mixture].experts.path}"
    assert walked[f"{path}.0.gate_up_proj"] is walked[f"{path}.3.gate_up_proj"]
    for name, stat in plain.items():
        if "self_attn" in name:  # of every block, after those before it ran
            assert torch.equal(walked[name], stat), name


def test_training_gives_experts_without_tokens_a_gradient_of_zero(make):
    model = make("mixtral").requires_grad_(True)
    model(input_ids=torch.tensor([[1, 2]]), use_cache=False).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert any(not p.grad.any() for n, p in model.named_parameters() if ".experts." in n)
