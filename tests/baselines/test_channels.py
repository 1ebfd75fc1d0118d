"""Hidden channels: dead ones cost nothing, the principal components are those of the stream, and what may follow."""

import pytest
import torch

from baselines.channels import Channels
from baselines.rotate import Rotate
from bench import api
from bench.inputs import loading
from bench.planning.spec import Spec
from bench.results.store import ReadOnlyStore
from helpers import runs
from helpers.models import build, job_for, write
from methods.contract import Compute
from methods.errors import UserError
from methods.folder import Writer
from methods.smaller import Kept, SmallerFolder, changed_config
from methods.targets import family_of
from methods.transforms.stream import stream_moment
from methods.transforms.wiring import Wiring

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "granite", "smollm3")


def logits(model, tokens):
    return model(input_ids=tokens, use_cache=False).logits


def smaller(model, kept, folder):
    """The model of a folder with these channels alone, as the runner writes it."""
    source, target = folder / "source", folder / "smaller"
    source.mkdir()
    write(model, source)
    opened, writer = SmallerFolder(source, kept), Writer(target)
    for name in opened:
        writer.add(name, opened.tensor(name))
    writer.close()
    config = type(model.config).from_pretrained(source)
    config.update(changed_config(model.config.to_dict(), kept))
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


@pytest.mark.parametrize("family", FAMILIES)
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

    assert kept.channels == tuple(i for i in range(32) if i not in dead)
    left = smaller(model, kept, tmp_path)
    assert left.config.hidden_size == 24
    wanted = logits(model, job.calibration)
    assert torch.allclose(logits(left, job.calibration), wanted, atol=1e-4 * float(wanted.abs().max()))


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

    moment = stream_moment(Wiring(model, job, "test"), job)
    assert torch.allclose(moment, states.T @ states / len(states), atol=1e-6)
    sizes = torch.linalg.eigvalsh(moment).flip(0)
    Rotate(pca=True).apply(model, job)
    turned = stream_moment(Wiring(model, job, "test"), job)

    assert torch.allclose(turned, sizes.diag(), atol=1e-4)
    outcome = Channels().apply(model, job)
    assert outcome.kept.channels == tuple(range(24))
    assert plain < outcome.notes["kept_energy"] == pytest.approx(float(sizes[:24].sum()), abs=1e-4)


@torch.inference_mode()
def test_dropping_nothing_keeps_the_function(tmp_path):
    model = build("llama")
    job = job_for(model)

    kept = Channels(drop="0%").apply(model, job).kept

    assert kept.channels == tuple(range(32))
    assert torch.equal(logits(smaller(model, kept, tmp_path), job.calibration), logits(model, job.calibration))
    assert Kept.read({"blocks": None, "units": None, "groups": None}) == Kept(), "as in the cache of older versions"


@pytest.mark.parametrize("family", ["gemma", "gpt2", "olmo2", "starcoder2", "olmoe"])
def test_other_families_are_refused(family):
    model = build(family)

    with pytest.raises(UserError, match=r"channels (cannot remove hidden channels of|does not know the architecture)"):
        Channels().apply(model, job_for(model))


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("channels:from=wanda", "must come first"),
        ("channels:from=depth", "must come first"),
        ("recon:from=channels", "removes channels: use retrain in place of recon"),
        ("retrain:from=channels:hidden=1", "removes channels: leave hidden out"),
        ("dsnot:from=channels+wanda", "changes them"),
        ("channels:drop=99%", "at least 16 must be left"),
        ("rotate:pca:steps=3", "leave steps and residual out"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(methods, said, tmp_path):
    with pytest.raises(UserError, match=said):
        api.plan(Spec(models=("tiny",), methods=(methods,), results=tmp_path, device="cpu"))


def test_rows_that_follow(tmp_path):
    """The runner compares what is left with the rotated model, and principal components lose less than plain channels."""
    pca = "channels:from=rotate/pca"
    methods = ("channels", pca, "magnitude:from=channels", "retrain:from=channels")
    few = {"sequences": 8, "seqlen": 64}
    small = {"measures": ("size", "perplexity"), "calibration": few, "perplexity": {"windows": 8}}
    small["training"] = {"tokens": 128, "batch": 2, "seqlen": 32}
    runs.run_here(runs.small(tmp_path, methods=methods, **small))

    rows = list(ReadOnlyStore(tmp_path))
    assert not [r.reason for r in rows if r.status != "ok"]
    values = {(r.identity.method, x.metric): x.value for r in rows for x in r.readings}
    assert {r.identity.method: r.identity.pattern for r in rows} == {
        "dense": "dense",
        "channels": "channels 25%",
        f"rotate:pca + {pca}": "channels 25%",
        "channels + magnitude:from=channels": "2:4",
        "channels + retrain:from=channels": "channels 25%",
    }
    assert values["channels", "parameters"] < 0.8 * values["dense", "parameters"]
    assert values[f"rotate:pca + {pca}", "perplexity"] < values["channels", "perplexity"]
