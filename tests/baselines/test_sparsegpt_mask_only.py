"""SparseGPT's mask on the original weights: `sparsegpt:mask-only`."""

import copy
from dataclasses import replace

import pytest
import torch

from baselines.sparsegpt import SparseGPT
from bench.inputs import loading
from methods.contract import Compute
from methods.targets import dense_weight


@pytest.fixture(params=["llama", "gpt2"])
def on_disk(request, make, keep_as, tmp_path):
    return keep_as(make(request.param), tmp_path / "source")


@pytest.fixture
def loaded(on_disk, make_job, tmp_path):
    """Return a dense model and its job."""
    model = loading.load(on_disk, Compute())
    return model, make_job(model, source=on_disk, workdir=tmp_path / "work")


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "2:8", "50%"])
def test_the_mask_is_sparsegpts_and_the_weights_are_the_models(pattern, loaded, make_job):
    dense, job = loaded
    job = replace(job, pattern=make_job(dense, pattern).pattern)
    moved = SparseGPT().apply(copy.deepcopy(dense), job).model

    masked = SparseGPT(mask_only=True).apply(copy.deepcopy(dense), job).model

    for name in job.targets:
        was, full, got = (dense_weight(m.get_submodule(name)) for m in (dense, moved, masked))
        assert torch.equal(got != 0, full != 0), name
        assert torch.equal(got, was.where(full != 0, 0)), name
        assert not torch.equal(got, full)
        assert job.pattern.violations(got) == 0
    for key, tensor in masked.state_dict().items():
        if key.removesuffix(".weight") not in job.targets:
            assert torch.equal(tensor, dense.state_dict()[key]), key


def test_a_kept_weight_that_underflows_is_in_the_mask(llama, make_job, keep_as, tmp_path):
    """Use weights near the smallest number of float16, so that compensation makes some smaller."""
    for name in make_job(llama).targets:
        llama.get_submodule(name).weight.mul_(2**-20)
    source, compute = keep_as(llama.half(), tmp_path / "source"), Compute(dtype=torch.float16)
    dense = loading.load(source, compute)
    job = make_job(dense, source=source, compute=compute, workdir=tmp_path / "work")

    got = SparseGPT(mask_only=True).apply(copy.deepcopy(dense), job).model

    for name in job.targets:
        was, weight = (dense_weight(m.get_submodule(name)) for m in (dense, got))
        full, kept = (w.unflatten(1, (-1, 4)).count_nonzero(-1) for w in (was, weight))
        assert (full == 4).any() and (kept[full == 4] == 2).all(), name


def test_errors_are_those_of_the_masked_weights(loaded):
    """Without the compensation, so the reported error is larger than SparseGPT's, on inputs of the same kind."""
    dense, job = loaded

    full, masked = (SparseGPT(mask_only=only).apply(copy.deepcopy(dense), job).notes for only in (False, True))

    first = job.targets[0]
    assert masked["reconstruction_error"][first] > full["reconstruction_error"][first]
    assert masked["reconstruction_inputs"] == full["reconstruction_inputs"] == "96 calibration tokens"
