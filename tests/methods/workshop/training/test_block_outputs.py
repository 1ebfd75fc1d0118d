"""Distillation of hidden states against its definition, and through the trainer."""

import copy

import pytest
import torch
from torch import nn

from helpers.models import sample
from helpers.trainings import method
from methods.contract.errors import UserError
from methods.workshop.training.block_outputs import BlockOutputs
from methods.workshop.training.compiled import blocks_of
from methods.workshop.training.distill import Distillation, distance
from methods.workshop.training.student import FrozenTeacher, Student

pytestmark = pytest.mark.numeric
EVERY = {"log_every": 1}


def median(values):
    return sorted(values)[(len(values) - 1) // 2]


def naive(student, teacher):
    """Return the distance by the definition, number by number, and its gradient."""
    total, gradient = 0.0, torch.zeros_like(student)
    for b, (h, t) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        norms = [sum(x * x for x in row) ** 0.5 for row in t]
        tokens = [i for i, n in enumerate(norms) if n <= 10 * median(norms)]
        sizes = [sum(t[i][c] ** 2 for i in tokens) ** 0.5 for c in range(len(t[0]))]
        channels = [c for c, n in enumerate(sizes) if n <= 10 * median(sizes)]
        for i in tokens:
            norm = sum(t[i][c] ** 2 for c in channels)
            for c in channels:
                total += 0.5 * (h[i][c] - t[i][c]) ** 2 / norm
                gradient[b, i, c] = (h[i][c] - t[i][c]) / norm
    return total, gradient


def states(massive=True):
    """Return a student's and a teacher's states [3, 9, 12], some of them massive."""
    rng = torch.Generator().manual_seed(0)
    teacher = torch.randn(3, 9, 12, generator=rng)
    if massive:
        teacher[:2, 0] *= 1000
        teacher[1:, :, 5] *= 40
    return teacher + 0.3 * torch.randn(3, 9, 12, generator=rng), teacher


@pytest.mark.parametrize("massive", [True, False])
def test_distance_and_its_gradient(massive):
    student, teacher = states(massive)
    want, gradient = naive(student, teacher)
    student.requires_grad_()

    got = distance(student, teacher)

    assert got.item() == pytest.approx(want, rel=1e-5)
    (found,) = torch.autograd.grad(2 * got, student)
    torch.testing.assert_close(found, 2 * gradient, rtol=1e-5, atol=1e-8)
    assert bool((gradient[0, 0] == 0).all()) is massive


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_states_have_no_distance_and_no_gradient(dtype):
    teacher = states()[1].to(dtype)
    teacher[0, 3] = 0  # a state without a direction
    student = teacher.clone().requires_grad_()
    got = distance(student, teacher)
    assert got.item() == 0 and got.dtype == torch.float32
    gradient = torch.autograd.grad(got, student)[0]
    assert gradient.dtype == dtype and not gradient.any()


def test_a_student_that_equals_its_teacher_does_not_move(llama, task):
    job = task(llama, pattern="dense", steps=3, budget=EVERY)
    outcome = method("dense-ft", eta=1.0, hidden=2.0).apply(copy.deepcopy(llama), job)
    assert [(r["loss"], r["hidden"], r["norm"]) for r in outcome.notes["curve"]] == [(0, 0, 0)] * 3
    for p, q in zip(llama.parameters(), outcome.model.parameters(), strict=True):
        assert torch.equal(p, q)


def naive_loss(model, dense, ids, every):
    """Return CE, and the distance of every `every`-th block, per token, from hooks."""
    seen = [], []
    for m, to in zip((model, dense), seen, strict=True):
        for block in list(blocks_of(m))[::-1][::every]:
            block.register_forward_hook(
                lambda _b, _a, out, to=to: to.append(out[0] if type(out) is tuple else out)
            )
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1]
        dense(input_ids=ids)
    ce = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    count = ids[:, 1:].numel()
    apart = sum(naive(h[:, :-1], t[:, :-1])[0] for h, t in zip(*seen, strict=True))
    return float(ce), apart / count


DAILY = [("gpt2", 1), ("gpt2", 2), ("gpt2", 9), ("mixtral", 1)]


@pytest.mark.parametrize(
    ("family", "every"),
    sample([*DAILY, *((name, 2) for name in ("llama", "opt", "gemma3_text", "gpt_oss"))], *DAILY),
)
def test_first_loss_is_that_of_the_definition(family, every, make, task):
    """Count blocks back from the last. Compare mixtures of experts like others."""
    dense = make(family)
    model = copy.deepcopy(dense)
    for p in model.parameters():
        p.mul_(1 + 0.1 * torch.randn(p.shape))
    job = task(dense, pattern="dense", steps=1)
    settings = {"eta": 0.0, "hidden": 0.7, "hidden_every": every}

    outcome = method("dense-ft", **settings).apply(copy.deepcopy(model), job)

    row = outcome.notes["curve"][0]
    ce, hidden = naive_loss(model, dense, job.training.batch(0), every)
    assert (row["ce"], row["hidden"]) == pytest.approx((ce, hidden), rel=1e-4)
    assert row["loss"] == pytest.approx(ce + 0.7 * hidden, rel=1e-4)
    assert all(block._compiled_call_impl is None for block in blocks_of(outcome.model))


def test_a_teachers_state_is_freed_once_it_is_compared(llama):
    teacher, student = FrozenTeacher(copy.deepcopy(llama)), Student(copy.deepcopy(llama))
    for each in (teacher, student):
        each.outputs = BlockOutputs(each.model, 1)
    outputs = teacher(torch.arange(32).view(2, 16))
    assert [x.shape for x in outputs.blocks] == [(2, 16, 32)] * len(blocks_of(llama))
    left = []
    blocks_of(student.model)[-1].register_forward_hook(lambda *_: left.append(len(outputs.blocks)))

    student(torch.arange(32).view(2, 16), outputs, Distillation(1.0, hidden=1.0), 1.0)

    assert left == [1] and not outputs.blocks


def test_a_teacher_with_other_blocks_is_refused(llama, task):
    short = copy.deepcopy(llama)
    short.model.layers = short.model.layers[:-1]
    with pytest.raises(UserError, match=r"hidden=0.5 .* \(2 of 32 and 3 of 32 channels\)"):
        method("cast", hidden=0.5).apply(copy.deepcopy(llama), task(llama, teacher=lambda: short))
