"""Hidden channels: dead ones cost nothing, and principal components are those of the stream."""

import pytest
import torch

from baselines.channels import Channels
from baselines.rotate import Rotate
from bench.execution.smaller import write_smaller
from bench.inputs import loading
from helpers.models import build, job_for, sample, write
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.targets import family_of
from methods.workshop.transforms.wiring import Wiring

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "granite", "smollm3")


def logits(model, tokens):
    return model(input_ids=tokens, use_cache=False).logits


def smaller(model, kept, folder):
    """The model of a folder with these channels alone, as the runner writes it."""
    source, target = folder / "source", folder / "smaller"
    write(model, source)
    config = type(model.config).from_pretrained(source)
    config.update(write_smaller(model, source, kept, target, torch.float32))
    config.save_pretrained(target)
    return loading.load(target, Compute())


def silence(model, channels):
    """Let nothing be written to these channels."""
    family = family_of(model.config.to_dict())
    model.get_input_embeddings().weight[:, channels] = 0
    for block in model.get_submodule(family.blocks):
        for writer in family.flow.writers:
            linear = block.get_submodule(writer)
            linear.weight[channels] = 0
            if linear.bias is not None:
                linear.bias[channels] = 0


@pytest.mark.parametrize("family", sample(FAMILIES, "llama", "qwen3"))
@torch.inference_mode()
def test_channels_that_nothing_writes_cost_nothing(family, tmp_path):
    """Norms divide by the mean over fewer channels, and are scaled for it."""
    model = build(family)
    model.config.rms_norm_eps = 0.0
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 0.0
    dead = [1, 4, 5, 8, 14, 22, 27, 31]
    silence(model, dead)
    job = job_for(model)

    kept = Channels(drop="25%").apply(model, job).kept

    assert kept["channels"] == tuple(i for i in range(32) if i not in dead)
    left = smaller(model, kept, tmp_path)
    assert left.config.hidden_size == 24
    wanted = logits(model, job.calibration)
    off = 1e-4 * float(wanted.abs().max())
    assert torch.allclose(logits(left, job.calibration), wanted, atol=off)


@torch.inference_mode()
def test_the_basis_is_that_of_the_stream_and_gathers_its_energy():
    model = build("llama")
    job = job_for(model)
    seen = []
    for norm in Wiring(model, job, "test").norms():
        model.get_submodule(norm).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits(model, job.calibration)
    states = torch.cat([x.double().flatten(0, 1) for x in seen])
    states = states / states.norm(dim=1, keepdim=True)
    plain = Channels().apply(model, job).notes["kept_energy"]
    for module in model.modules():
        module._forward_pre_hooks.clear()

    model.lm_head.register_forward_pre_hook(lambda *_: pytest.fail("logits that nobody needs"))
    moment = Wiring(model, job, "test").stream_moment(job)
    assert torch.allclose(moment, states.T @ states / len(states), atol=1e-6)
    sizes = torch.linalg.eigvalsh(moment).flip(0)
    Rotate(pca=True).apply(model, job)
    turned = Wiring(model, job, "test").stream_moment(job)

    assert torch.allclose(turned, sizes.diag(), atol=1e-4)
    outcome = Channels().apply(model, job)
    assert outcome.kept["channels"] == tuple(range(24))
    assert plain < outcome.notes["kept_energy"] == pytest.approx(float(sizes[:24].sum()), abs=1e-4)


@torch.inference_mode()
def test_dropping_nothing_keeps_the_function(tmp_path):
    model = build("llama")
    job = job_for(model)
    kept = Channels(drop="0%").apply(model, job).kept
    assert kept["channels"] == tuple(range(32))
    found = logits(smaller(model, kept, tmp_path), job.calibration)
    assert torch.equal(found, logits(model, job.calibration))


@pytest.mark.parametrize("family", ["gemma", "gpt2", "olmo2", "olmoe"])
def test_other_families_are_refused(family):
    model = build(family)
    with pytest.raises(UserError, match=r"has no channels that|channels does not know the arch"):
        Channels().apply(model, job_for(model))
