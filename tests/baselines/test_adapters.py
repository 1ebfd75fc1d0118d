"""Other libraries' pruners beside ours: what each says where it is missing, and, slowly, what each really does."""

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
from bench.quantizers.libraries import AutoRound, LlmCompressorMxFp4, LlmCompressorNvFp4
from bench.system import environments
from helpers import runs
from methods.contract import Environment
from methods.errors import Skipped, UserError
from methods.pattern import Pattern
from methods.targets import as_regexes, dense_weight, family_of

PAIRS = [
    (LlmCompressorSparseGPT, SparseGPT),
    (LlmCompressorWanda, Wanda),
    (SparsemlSparseGPT, SparseGPT),
    (SparsemlMagnitude, Magnitude),
]


@pytest.mark.parametrize(
    "kind",
    [
        LlmCompressorSparseGPT, LlmCompressorWanda, LlmCompressorAwq, LlmCompressorSmoothQuant, LlmCompressorNvFp4,
        LlmCompressorMxFp4,
    ],
)  # fmt: skip
def test_missing_library_is_skipped(kind, llama, job, monkeypatch):
    monkeypatch.setitem(sys.modules, "llmcompressor", None)

    with pytest.raises(Skipped, match=r"^pip install 'cast-bench\[llmcompressor\]' \(no module llmcompressor"):
        kind().apply(llama, job)


@pytest.mark.parametrize("kind", [LlmCompressorSparseGPT, SparsemlSparseGPT])
@pytest.mark.parametrize("block", [6])
def test_block_must_hold_whole_groups(kind, block, llama, job):
    with pytest.raises(UserError, match=f"invalid {kind.name}:block={block}: must be a multiple of 4 for pattern 2:4"):
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
    config = {"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}, "dtype": "float32", "hidden_size": 8}

    assert to_old_config(config) == {"rope_theta": 1e5, "torch_dtype": "float32", "hidden_size": 8}
    scaled = to_old_config({"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}})
    assert scaled["rope_scaling"] == {"type": "linear", "factor": 2.0}
    with pytest.raises(Skipped, match="'llama3'"):
        to_old_config({"rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3", "factor": 8.0}})


def test_patterns_match_the_targets_and_nothing_else(make, make_job, family):
    model = make(family)
    job = make_job(model)
    known = family_of(model.config.to_dict())
    names = [name for name, _ in model.named_modules()]
    for targets in (job.targets, job.targets[3:], job.targets[1:2], job.targets[::3]):
        found = [n for n in names if any(re.match(regex, n) for regex in as_regexes(targets, known))]
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
@pytest.mark.parametrize(("kind", "group"), [(LlmCompressorNvFp4(), 16), (AutoRound(group=8, steps=2), 8)])
def test_their_weights_are_on_few_points(kind, group, named, make_job):
    pytest.importorskip("llmcompressor")
    job = make_job(named, "dense")
    outcome = kind.apply(named, job)
    for target in job.targets:
        rows = outcome.model.get_submodule(target).weight.unflatten(-1, (-1, group)).flatten(0, 1)
        assert max(len(row.unique()) for row in rows) <= 16, target


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
def test_weights_that_are_tied_stay_as_they_are(llama, make_job, tmp_path):
    """lm_head is the embedding, and no target."""
    llama.config.tie_word_embeddings = True
    llama.tie_weights()
    job = make_job(llama)
    before = llama.lm_head.weight.clone()

    for kind in (LlmCompressorWanda, LlmCompressorSparseGPT):
        model = copy.deepcopy(llama)
        after = kind().apply(model, ready(kind, job, tmp_path)).model
        assert torch.equal(after.lm_head.weight, before)
        assert after.lm_head.weight is after.model.embed_tokens.weight
        assert all(not dense_weight(after.get_submodule(t)).all() for t in job.targets)
