"""SparseGPT's mask on the original weights: `sparsegpt:mask-only`."""

import copy

import pytest
import torch

from baselines.sparsegpt import SparseGPT
from bench.inputs import loading
from methods.contract.method import Compute
from methods.model.targets import dense_weight


@pytest.mark.parametrize("pattern", ["2:4", "50%"])
def test_it_is_sparsegpts_mask_on_dense_weights(pattern, llama, make_job, keep_as, tmp_path):
    """The error is that of the masked weights, so larger than with compensation."""
    source = keep_as(llama, tmp_path / "source")
    dense = loading.load(source, Compute())
    job = make_job(dense, pattern, source=source, workdir=tmp_path / "work")

    methods = (SparseGPT(), SparseGPT(mask_only=True))
    moved, masked = (method.apply(copy.deepcopy(dense), job) for method in methods)

    for name in job.targets:
        models = (dense, moved.model, masked.model)
        was, full, got = (dense_weight(m.get_submodule(name)) for m in models)
        assert torch.equal(got != 0, full != 0), name
        assert torch.equal(got, was.where(full != 0, 0)), name
        assert not torch.equal(got, full)
        assert job.pattern.violations(got) == 0
    for key, tensor in masked.model.state_dict().items():
        if key.removesuffix(".weight") not in job.targets:
            assert torch.equal(tensor, dense.state_dict()[key]), key
    first = job.targets[0]
    assert masked.notes["reconstruction_error"][first] > moved.notes["reconstruction_error"][first]
    assert all(o.notes["reconstruction_inputs"] == "96 calibration tokens" for o in (moved, masked))


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
