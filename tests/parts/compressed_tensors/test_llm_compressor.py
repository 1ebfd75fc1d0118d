"""Quantizers of llm-compressor: what each says where it is missing, and what it does."""

import copy
import sys
from types import ModuleType

import pytest
import torch

from bench.parts.compressed_tensors.llm_compressor import (
    AutoRound,
    LlmCompressorGptq,
    LlmCompressorMxFp4,
    LlmCompressorNvFp4,
)
from helpers import runs
from methods.contract.errors import Skipped
from methods.workshop.quantizing.grids import Microscaling, NvFloat4


@pytest.fixture
def named(llama):
    """Return a random model with the tokenizer of tiny, which llm-compressor asks for."""
    llama.config._name_or_path = str(runs.TINY)
    return llama


def test_a_missing_library_is_skipped(llama, job, monkeypatch):
    monkeypatch.setitem(sys.modules, "llmcompressor", None)

    with pytest.raises(Skipped, match=r"^pip install .*\(no module llmcompressor"):
        LlmCompressorNvFp4().apply(llama, job)


def nearest(model, target, kind):
    """Round as llm-compressor does: one NVFP4 scale for one input, MXFP4 up from 1.75."""
    stem, _, name = target.rpartition(".")
    of_one_input = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), (name,)]
    siblings = next(names for names in of_one_input if name in names)
    weight = model.get_submodule(target).weight
    if kind.name == "llmcompressor-nvfp4":
        most = max(float(model.get_submodule(f"{stem}.{s}").weight.abs().max()) for s in siblings)
        groups, grid = weight.unflatten(-1, (-1, 16)), NvFloat4(most / (6 * 448))
        scale = grid.scale(groups)
    else:
        groups, grid = weight.unflatten(-1, (-1, 32)), Microscaling(4)
        scale = grid.scale(groups * 8 / 7)
    return grid.snap(groups, scale).flatten(-2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LlmCompressorNvFp4(), LlmCompressorMxFp4()])
def test_their_floats_in_4_bits_are_the_nearest(kind, named, make_job):
    pytest.importorskip("llmcompressor")
    job, dense = make_job(named, "dense"), copy.deepcopy(named)
    outcome = kind.apply(named, job)
    assert set(outcome.stored) == set(job.targets)
    for target in job.targets:
        found = outcome.model.get_submodule(target).weight
        torch.testing.assert_close(found, nearest(dense, target, kind))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (AutoRound(), "leaves out linears .* multiples of 32: .*self_attn.k_proj is 16 x 32"),
        (LlmCompressorMxFp4(), "has groups of 32, and model.layers.0.mlp.down_proj has 48 inputs"),
    ],
)
def test_shapes_that_a_library_cannot_quantize_are_skipped(kind, why, make, make_job, monkeypatch):
    for library in ("llmcompressor", "auto_round"):
        monkeypatch.setitem(sys.modules, library, ModuleType(library))
    model = make("llama")
    for layer in model.model.layers:
        layer.mlp.down_proj = torch.nn.Linear(48, 32, bias=False)
    with pytest.raises(Skipped, match=why):
        kind.apply(model, make_job(model, "dense"))


def test_auto_round_has_groups_of_one_size_that_fits_every_linear():
    assert AutoRound()._groups({"a": (64, 128), "b": (128, 64)}) == {"a": 64, "b": 64}


def require_int4(outcome, job, dense, group=0):
    """Require every group, or row, on 16 symmetric points around zero, near the dense weights."""
    for target in job.targets:
        before, after = (m.get_submodule(target).weight for m in (dense, outcome.model))
        before, after = (w.unflatten(-1, (-1, group or w.shape[1])) for w in (before, after))
        for row in after.flatten(0, 1):
            levels = (row / row.unique().diff().min()).round()
            step = row @ levels / (levels @ levels)
            # Those of auto-round are rounded to float16.
            torch.testing.assert_close(row / step, levels, rtol=0, atol=0.05)
            assert 5 <= levels.abs().max() <= 8, target
        assert (after - before).norm() < 0.2 * before.norm(), target


@pytest.mark.slow
def test_their_gptq_rounds_to_integers_of_4_bits(named, make_job):
    pytest.importorskip("llmcompressor")
    job, dense = make_job(named, "dense"), copy.deepcopy(named)
    require_int4(LlmCompressorGptq().apply(named, job), job, dense)


@pytest.mark.slow
def test_auto_round_learns_which_way_to_round(make, make_job, monkeypatch):
    pytest.importorskip("llmcompressor")
    monkeypatch.setattr(torch._dynamo.config, "disable", True)
    dense = make("gemma")
    dense.config._name_or_path = str(runs.TINY)
    job, errors = make_job(dense, "dense"), []
    expected = dense.model(job.calibration).last_hidden_state
    for steps in (1, 40):
        outcome = AutoRound(group=32, steps=steps).apply(copy.deepcopy(dense), job)
        require_int4(outcome, job, dense, 32)
        found = outcome.model.model(job.calibration).last_hidden_state
        errors.append((found - expected).square().mean())
    assert errors[1] < 0.8 * errors[0]
