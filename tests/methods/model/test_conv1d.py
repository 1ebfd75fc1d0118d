"""GPT-2's linears: [in, out] in files and in transformers' Conv1D, [out, in] here."""

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from baselines.dense_ft import DenseFt
from baselines.permute import Permute
from baselines.wanda import Wanda
from bench.inputs import loading
from cast.cast import Cast
from helpers import models, trainings
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.experts import unfold
from methods.model.folder import save


@pytest.fixture
def theirs():
    """A model of transformers' class."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(models.CONFIGS["gpt2"]()).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_a_model_is_written_as_it_was_read(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "published")
    loaded = loading.load(tmp_path / "published", Compute())
    job = models.job_for(loaded)

    written = models.write(loaded, tmp_path / "written")

    for target in job.targets:
        linear = loaded.get_submodule(target)
        assert type(linear) is nn.Linear
        assert torch.equal(linear.weight, theirs.get_submodule(target).weight.T)
    before, after = (
        load_file(tmp_path / name / "model.safetensors") for name in ("published", "written")
    )
    assert before.keys() == after.keys() and all(
        torch.equal(after[name], before[name]) for name in before
    )
    again = AutoModelForCausalLM.from_pretrained(written)
    assert torch.equal(again(job.calibration).logits, theirs(job.calibration).logits)


@pytest.mark.parametrize(
    "method", [Wanda(), Permute(), DenseFt(lr=1e-3)], ids=lambda method: method.name
)
def test_a_model_that_a_user_loaded_is_changed_like_ours(method, theirs, tmp_path):
    """Walk, Wiring and Trainer take it as it is."""
    ours = unfold(copy.deepcopy(theirs))
    start = copy.deepcopy(ours.state_dict())
    job = replace(
        trainings.job_to_train(ours, models.job_for, trainings.counting(), tmp_path / "a", steps=1),
        prior=None,
    )

    want = method.apply(ours, job).model.state_dict()
    got = method.apply(theirs, replace(job, workdir=tmp_path / "b")).model.state_dict()

    assert all(torch.equal(tensor, want[name]) for name, tensor in got.items())
    assert not all(torch.equal(tensor, start[name]) for name, tensor in got.items())


def test_a_method_that_parametrizes_first_says_what_to_call(theirs, tmp_path):
    job = trainings.job_to_train(
        unfold(copy.deepcopy(theirs)), models.job_for, trainings.counting(), tmp_path, steps=1
    )
    with pytest.raises(UserError, match=r"c_attn is a Conv1D: call methods\.model"):
        Cast().apply(theirs, replace(job, prior=None))


def test_a_model_that_is_not_unfolded_is_not_written(theirs, tmp_path):
    with pytest.raises(AssertionError, match="unfold"):
        save(theirs, tmp_path)
