"""Losses over hidden states against their definitions."""

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from methods.model.logits import Finish
from methods.workshop.training.distill import Distillation
from methods.workshop.training.loss import CrossEntropy, Loss, Outputs

pytestmark = pytest.mark.numeric


def material(dtype=torch.float64, tokens=50, vocabulary=37, width=12):
    rng = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=dtype)

    hidden, head = draw(tokens, width).requires_grad_(), draw(vocabulary, width).requires_grad_()
    teacher = Outputs(draw(tokens, 20), draw(vocabulary, 20))
    targets = torch.randint(vocabulary, (tokens,), generator=rng)
    return hidden, head, targets, teacher


def naive(hidden, head, targets, teacher, eta, temperature):
    z = hidden @ head.T
    other = (teacher.hidden @ teacher.head.T / temperature).log_softmax(-1)
    kl = temperature**2 * kl_div(
        (z / temperature).log_softmax(-1), other, log_target=True, reduction="sum"
    )
    ce = cross_entropy(z, targets, reduction="sum")
    return eta * kl + (1 - eta) * ce, ce, kl


SIZES = {"logits_bytes": 8 * 37 * 7, "part_bytes": 4 * 37 * 3}
"""Seven of the 50 rows of logits at a time, in parts of three."""


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("eta", [0.0, 1 / 3, 1.0])
def test_value_and_gradients(eta, temperature):
    hidden, head, targets, teacher = material()
    want, ce, kl = naive(hidden, head, targets, teacher, eta, temperature)
    expected = torch.autograd.grad(want / 50, (hidden, head))

    distill = Distillation(eta, temperature)
    got, *parts = distill(Outputs(hidden, head), targets, teacher, 1 / 50, **SIZES)
    gradients = torch.autograd.grad(got, (hidden, head))

    torch.testing.assert_close(got.double(), want / 50, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts[0].double(), ce, rtol=1e-5, atol=1e-5)
    if eta:
        torch.testing.assert_close(parts[1].double(), kl, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


FINISHES = [Finish(), Finish(cap=1.5), Finish(divisor=8.0), Finish(cap=1.5, divisor=0.5)]


@pytest.mark.parametrize("finish", FINISHES, ids=str)
def test_a_head_with_a_bias_and_a_finish(finish):
    """Gradients of the states, the head and its bias, against autograd through the definition."""
    hidden, head, targets, teacher = material()
    rng = torch.Generator().manual_seed(1)
    bias = torch.randn(37, generator=rng, dtype=torch.float64).requires_grad_()
    other = torch.randn(37, generator=rng, dtype=torch.float64)
    teacher = teacher._replace(bias=other, finish=Finish(cap=0.7))

    def logits(x):
        x = x if finish.divisor is None else x / finish.divisor
        return x if finish.cap is None else finish.cap * (x / finish.cap).tanh()

    z = logits(hidden @ head.T + bias)
    other = (0.7 * ((teacher.hidden @ teacher.head.T + teacher.bias) / 0.7).tanh()).log_softmax(-1)
    kl = kl_div(z.log_softmax(-1), other, log_target=True, reduction="sum")
    want = (kl / 3 + 2 / 3 * cross_entropy(z, targets, reduction="sum")) / 50
    expected = torch.autograd.grad(want, (hidden, head, bias))

    student = Outputs(hidden, head, bias, finish)
    got = Distillation(1 / 3)(student, targets, teacher, 1 / 50, logits_bytes=8 * 37 * 7)[0]

    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(torch.autograd.grad(got, (hidden, head, bias)), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_without_a_teacher_it_is_cross_entropy():
    hidden, head, targets, _ = material()
    got, ce, kl = Distillation(0.0)(Outputs(hidden, head), targets, None, 1 / 50)
    want = cross_entropy(hidden @ head.T, targets)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    assert float(kl.detach()) == 0
    assert float(ce.detach()) == pytest.approx(50 * want.item(), rel=1e-5)


def test_logits_never_exist_whole(monkeypatch):
    seen = []
    real = torch.Tensor.__matmul__

    def watch(a, b):
        out = real(a, b)
        seen.append(tuple(out.shape))
        return out

    monkeypatch.setattr(torch.Tensor, "__matmul__", watch)
    hidden, head, targets, teacher = material()
    loss, *_ = Distillation(0.5)(Outputs(hidden, head), targets, teacher, logits_bytes=8 * 37 * 8)
    loss.backward()

    assert max(rows for rows, columns in seen if columns == 37) == 8


def test_frozen_head_gets_no_gradient():
    hidden, head, targets, teacher = material()
    head = head.detach()
    Distillation(0.5)(Outputs(hidden, head), targets, teacher)[0].backward()
    assert hidden.grad is not None and head.grad is None


class ByAutograd(Loss):
    """Two thirds of cross-entropy and a third of KL, without a gradient of its own."""

    terms, weights, needs_logits = ("ce", "kl"), (2 / 3, 1 / 3), True

    def of_tokens(self, logits, targets, teacher):
        log_q, log_p = logits.log_softmax(-1), teacher.log_softmax(-1)
        kl = kl_div(log_q, log_p, log_target=True, reduction="sum")
        return cross_entropy(logits, targets, reduction="sum"), kl


@pytest.mark.parametrize("finish", FINISHES[::3], ids=str)
def test_a_loss_without_a_gradient_of_its_own_has_that_of_autograd(finish):
    hidden, head, targets, teacher = material()
    given = Outputs(hidden, head, None, finish), targets, teacher, 1 / 50

    one, two = (loss(*given, **SIZES) for loss in (ByAutograd(), Distillation(1 / 3)))

    for mine, theirs in zip(one, two, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(loss[0], (hidden, head)) for loss in (one, two)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_cross_entropy_has_its_own_gradient():
    hidden, head, targets, _ = material()
    got, ce = CrossEntropy()(Outputs(hidden, head), targets, scale=1 / 50)
    want = cross_entropy(hidden @ head.T, targets)
    torch.testing.assert_close((got.double(), ce.double()), (want, 50 * want), rtol=1e-5, atol=1e-6)
    gradients = (torch.autograd.grad(loss, (hidden, head)) for loss in (got, want))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
