"""Every method on every family: the pattern holds along the inputs, and nothing else moved."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div
from transformers import AutoModelForCausalLM

from baselines.wanda import Wanda
from bench.inputs import loading
from helpers import models
from methods.contract.method import Compute, NoProgress
from methods.model.families import FAMILIES
from methods.model.logits import head_of
from methods.workshop.pruning.streaming import last_hidden
from methods.workshop.training import loss, student
from methods.workshop.training.distill import Distillation


@pytest.fixture(
    params=models.sample(models.CONFIGS, "gpt2", "gemma2", "phi3", "granitemoe", "gpt_oss")
)
def family(request):
    return request.param


@pytest.fixture
def folder(family, make, keep_as, tmp_path):
    return keep_as(make(family), tmp_path / "source")


def logits_of(folder):
    """transformers' own model, which sums over experts one by one as ours does, and its logits."""
    model = AutoModelForCausalLM.from_pretrained(folder, experts_implementation="eager").eval()
    tokens = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model, tokens, model(input_ids=tokens, use_cache=False).logits


def test_every_family_is_here():
    assert set(models.CONFIGS) == set(FAMILIES)


def same(mine, theirs, family):
    """To the bit. Where transformers computes with weights [in, out], it sums in another order."""
    known = FAMILIES[family]
    if known.transposed or (known.experts and known.experts.transposed):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(mine, theirs)


def test_a_streamed_forward_is_the_models_own(family, folder):
    theirs, tokens, _ = logits_of(folder)
    compute = Compute(stream=True)
    model = loading.load(folder, compute)

    (states,) = last_hidden(model, folder, tokens, 2, compute, NoProgress())
    for parameter in theirs.parameters():
        parameter.data = parameter.data.clone()  # products round by where their operands begin

    with torch.no_grad():
        same(states, theirs.base_model(input_ids=tokens, use_cache=False)[0], family)


def test_a_saved_folder_has_the_same_logits_in_transformers(family, folder, make_job, tmp_path):
    model = loading.load(folder, Compute())
    where = models.write(Wanda().apply(model, make_job(model)).model, tmp_path / "pruned")
    ours = loading.load(where, Compute())
    _, tokens, want = logits_of(where)
    same(ours(input_ids=tokens, use_cache=False).logits, want, family)


@pytest.mark.numeric
def test_measures_read_the_models_own_logits(folder):
    theirs, tokens, want = logits_of(folder)
    with torch.no_grad():
        got = head_of(theirs)(theirs.base_model(input_ids=tokens, use_cache=False)[0])
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.numeric
def test_training_has_the_loss_of_the_models_own_logits(folder, make, family):
    """Cross-entropy, distance to a teacher, and their gradients in every parameter."""
    model = make(family).double().requires_grad_(True)
    teacher = copy.deepcopy(model).requires_grad_(False)
    for p in teacher.parameters():
        p.mul_(1.1)
    tokens = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(1))
    z = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    other = teacher(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    kl = kl_div(z.log_softmax(-1), other.log_softmax(-1), log_target=True, reduction="sum")
    want = kl / 3 + 2 / 3 * cross_entropy(z, tokens[:, 1:].flatten(), reduction="sum")
    named = dict(model.named_parameters())
    expected = torch.autograd.grad(want, list(named.values()))

    given = loss.Outputs(student.hidden_states(teacher, tokens), *loss.head_of(teacher))
    got = student.Student(model)(tokens, given, Distillation(1 / 3), 1.0)[0]

    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(got, list(named.values()))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
