"""Other libraries' pruners beside ours: what each says where it is missing, and what it does."""

import copy
import importlib.util
import re
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from baselines.llmcompressor import (
    LlmCompressorAwq,
    LlmCompressorSmoothQuant,
    LlmCompressorSparseGPT,
    LlmCompressorWanda,
)
from baselines.magnitude import Magnitude
from baselines.sparsegpt import SparseGPT
from baselines.sparseml import SparsemlMagnitude, SparsemlSparseGPT, to_old_config
from baselines.wanda import Wanda
from bench.system import environments
from helpers import runs
from helpers.layers import inputs_of
from methods.contract.errors import Skipped, UserError
from methods.contract.method import Environment
from methods.contract.pattern import Pattern
from methods.model.targets import as_regexes, dense_weight, family_of

PAIRS = [
    (LlmCompressorSparseGPT, SparseGPT),
    (LlmCompressorWanda, Wanda),
    (SparsemlSparseGPT, SparseGPT),
    (SparsemlMagnitude, Magnitude),
]


PRUNERS = [LlmCompressorSparseGPT, LlmCompressorWanda]


@pytest.mark.parametrize("kind", [*PRUNERS, LlmCompressorAwq, LlmCompressorSmoothQuant])
def test_missing_library_is_skipped(kind, llama, job, monkeypatch):
    monkeypatch.setitem(sys.modules, "llmcompressor", None)
    with pytest.raises(Skipped, match=r"^pip install .*\(no module llmcompressor"):
        kind().apply(llama, job)


@pytest.mark.parametrize("kind", [SparseGPT, LlmCompressorSparseGPT, SparsemlSparseGPT])
@pytest.mark.parametrize("block", [6, 2])
def test_block_must_hold_whole_groups(kind, block, llama, job):
    with pytest.raises(UserError, match=f"{kind.name}:block={block}: must be a multiple of 4"):
        kind(block=block).apply(llama, job)


def test_sparseml_skips_what_it_cannot_do(make, make_job):
    llama, qwen3 = make("llama"), make("qwen3")
    job = make_job(llama)
    with pytest.raises(Skipped, match="too old for qwen3"):
        SparsemlMagnitude().apply(qwen3, make_job(qwen3))
    with pytest.raises(Skipped, match="whole decoder blocks"):
        SparsemlSparseGPT().apply(llama, replace(job, targets=job.targets[1:]))
    with pytest.raises(Skipped, match="nothing to prune"):
        SparsemlMagnitude().apply(llama, replace(job, pattern=Pattern()))


def test_config_for_an_older_transformers():
    def old(kind, **fields):
        return to_old_config({"rope_parameters": {"rope_theta": 1e5, "rope_type": kind} | fields})

    assert old("default") == {"rope_theta": 1e5}
    assert to_old_config({"dtype": "x", "hidden_size": 8}) == {"torch_dtype": "x", "hidden_size": 8}
    assert old("linear", factor=2.0)["rope_scaling"] == {"type": "linear", "factor": 2.0}
    with pytest.raises(Skipped, match="'llama3'"):
        old("llama3", factor=8.0)


def test_patterns_match_the_targets_and_nothing_else(make, make_job, family):
    model = make(family)
    job = make_job(model)
    known = family_of(model.config.to_dict())
    names = [name for name, _ in model.named_modules()]
    for targets in (job.targets, job.targets[3:], job.targets[1:2], job.targets[::3]):
        regexes = as_regexes(targets, known)
        found = [name for name in names if any(re.match(regex, name) for regex in regexes)]
        assert sorted(found) == sorted(targets)
    assert len(as_regexes(job.targets, known)) == 1


def ready(kind, job, tmp_path):
    """Return the job with the environment of its method, or skip the test."""
    if kind in (LlmCompressorSparseGPT, LlmCompressorWanda):
        if not importlib.util.find_spec("llmcompressor"):
            pytest.skip("llmcompressor is not installed")
        return job
    try:
        python = environments.python("sparseml")
    except Skipped as reason:
        pytest.skip(str(reason))
    here = Environment(name="sparseml", python=python, log=tmp_path / "child.log")
    return replace(job, environment=here, workdir=tmp_path)


@pytest.fixture
def named(llama):
    """Return a random model with the tokenizer of tiny, which llm-compressor asks for."""
    llama.config._name_or_path = str(runs.TINY)
    return llama


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LlmCompressorAwq(group=8, grid=4), LlmCompressorSmoothQuant()])
def test_their_scales_keep_the_function(kind, named, make_job):
    pytest.importorskip("llmcompressor")
    job, tokens = make_job(named, "dense"), torch.arange(3, 19)[None]
    before, weights = named(tokens).logits, copy.deepcopy(named.state_dict())

    outcome = kind.apply(named, job)

    changed = {name for name, p in named.state_dict().items() if not torch.equal(p, weights[name])}
    torch.testing.assert_close(named(tokens).logits, before, rtol=1e-4, atol=1e-5)
    assert "model.layers.0.input_layernorm.weight" in changed
    assert changed - {f"{target}.weight" for target in job.targets} == outcome.changed


@pytest.mark.slow
def test_their_awq_scales_by_a_power_of_the_inputs(named, make_job):
    pytest.importorskip("llmcompressor")
    job, sizes = make_job(named, "dense"), {}
    seen = inputs_of(named, job)
    for group in (8, 16):
        model = copy.deepcopy(named)
        kind = LlmCompressorAwq(group=group, grid=4)
        recipe = kind.apply(model, job).notes["recipe"]
        assert recipe["AWQModifier"] == {"duo_scaling": False, "n_grid": 4}
        weights = recipe["QuantizationModifier"]["config_groups"]["group"]["weights"]
        assert weights["num_bits"] == 4 and weights["symmetric"] and weights["group_size"] == group
        for i in range(3):
            was, now = (m.model.layers[i].input_layernorm.weight for m in (named, model))
            scale = (was / now).log()
            size = seen[f"model.layers.{i}.self_attn.q_proj"].abs().mean(0).log()
            scale, size = scale - scale.mean(), size - size.mean()
            power = torch.linalg.lstsq(size[:, None], scale[:, None]).solution.item()
            torch.testing.assert_close(scale, power * size, rtol=1e-3, atol=1e-3)
            sizes.setdefault(group, []).append(round(3 * power, 3))
    assert {*sizes[8], *sizes[16]} <= {0, 1, 2, 3}
    assert sizes[8] != sizes[16] and any(sizes[8])


@pytest.mark.slow
def test_their_smoothquant_balances_the_ranges_of_inputs_and_weights(named, make_job):
    """Compare with their formula."""
    pytest.importorskip("llmcompressor")
    job = make_job(named, "dense")
    attention, seen = named.model.layers[0].self_attn, inputs_of(named, job)
    x = seen["model.layers.0.self_attn.q_proj"]
    model = LlmCompressorSmoothQuant(strength=0.75).apply(copy.deepcopy(named), job).model
    readers = (attention.q_proj, attention.k_proj, attention.v_proj)
    top = torch.stack([linear.weight.abs().amax(0) for linear in readers]).amax(0)
    expected = (x.amax(0) - x.amin(0)).pow(0.75) / (2 * top).pow(0.25)
    was, now = (m.model.layers[0].input_layernorm.weight for m in (named, model))
    torch.testing.assert_close(was / now, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
@pytest.mark.parametrize("pattern", ["2:4", "1:4"])
def test_theirs_and_ours_are_one_method(theirs, ours, pattern, named, make_job, tmp_path):
    """Masks and weights, on a model without ties."""
    job = make_job(named, pattern)
    job = ready(theirs, job, tmp_path)
    expected = ours().apply(copy.deepcopy(named), job).model.state_dict()
    before = copy.deepcopy(named.state_dict())

    outcome = theirs().apply(named, job)

    whole = isinstance(outcome.model, torch.nn.Module)
    after = outcome.model.state_dict() if whole else load_file(outcome.model / "model.safetensors")
    for name, tensor in after.items():
        if name.removesuffix(".weight") not in job.targets:
            assert torch.equal(tensor, before[name]), name
            continue
        assert job.pattern.violations(tensor.view(torch.int32)) == 0, "-0.0 counts, too"
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)
    assert {"versions", "recipe", "log", "dense_logits"} <= outcome.notes.keys()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "opt"])
def test_sparseml_reads_the_dense_model_of_every_family_it_gets(family, make, make_job, tmp_path):
    random = make(family)
    random.config.sliding_window = None
    if family == "qwen2":
        random.config.layer_types = ["full_attention"] * random.config.num_hidden_layers
    model = type(random)(random.config).eval().requires_grad_(False)
    model.load_state_dict(random.state_dict())
    job = ready(SparsemlMagnitude, make_job(model), tmp_path)

    notes = SparsemlMagnitude().apply(model, job).notes

    assert notes["dense_logits"]["difference"] < 1e-5
    assert notes["versions"]["sparseml"] == "1.8.0"


@pytest.mark.slow
def test_weights_that_are_tied_stay_as_they_are(named, make_job, tmp_path):
    """lm_head is the embedding, and no target."""
    named.config.tie_word_embeddings = True
    named.tie_weights()
    job = make_job(named)
    before = named.lm_head.weight.clone()

    for kind in (LlmCompressorWanda, LlmCompressorSparseGPT):
        model = copy.deepcopy(named)
        after = kind().apply(model, ready(kind, job, tmp_path)).model
        assert torch.equal(after.lm_head.weight, before)
        assert after.lm_head.weight is after.model.embed_tokens.weight
        assert all(not dense_weight(after.get_submodule(t)).all() for t in job.targets)
