"""CAST with a mask by |w| * ||x||. Equal norms make it CAST."""

import copy

import torch

from cast import wanda_mask
from cast.cast import Cast
from cast.wanda_mask import WandaAdamS
from methods.contract.pattern import Pattern

ADAM = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "lambda_": 0.5, "kernel": "foreach"}


def optimizer_of(weights, **options):
    options = ADAM | {"total": 100, "pattern": Pattern(2, 4)} | options
    return WandaAdamS([{"params": weights, "sparse": True}], **options)


def test_equal_norms_make_it_cast_and_others_move_the_mask(llama, task, monkeypatch):
    """Bit for bit: weights and curve."""
    same, wanda = (
        Cast(lr=3e-3, mask=mask).apply(copy.deepcopy(llama), task(llama, steps=12))
        for mask in ("magnitude", "wanda")
    )
    assert not any(m._forward_pre_hooks for m in wanda.model.modules())
    for name in task(llama).targets[:1]:
        one, other = (o.model.get_submodule(name).weight != 0 for o in (same, wanda))
        assert not torch.equal(one, other)
    record = WandaAdamS._recorder

    def constant(optimizer, weight):
        inner = record(optimizer, weight)
        return lambda module, args: inner(module, (torch.full_like(args[0], 0.3),))

    monkeypatch.setattr(WandaAdamS, "_recorder", constant)
    got = Cast(lr=3e-3, mask="wanda").apply(copy.deepcopy(llama), task(llama, steps=12))

    assert got.notes == same.notes
    for p, q in zip(got.model.parameters(), same.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_records_the_squares_of_inputs_in_training_alone(llama, make_job):
    """Expect a hundredth of the mean after the first step, because the running mean starts at 0."""
    model = llama.requires_grad_(True)
    job = make_job(model)
    modules = [model.get_submodule(t) for t in job.targets]
    weights = [m.weight for m in modules]
    seen = []
    modules[3].register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))
    optimizer = optimizer_of(weights, lr=0.0)

    with optimizer.watch(zip(modules, weights, strict=True)):
        with torch.no_grad():
            model(job.calibration[:3])
        seen.clear()
        # As a step of two micro-batches, of 4 and 2 sequences.
        for part in job.calibration.split(4):
            model(part, labels=part).loss.backward()
        optimizer.step()
    model(job.calibration[:2]).logits.sum().backward()
    optimizer.step()

    x = torch.cat(seen[:2])
    squares = optimizer.state[weights[3]]["square"]
    torch.testing.assert_close(squares, (1 - wanda_mask.DECAY) * x.flatten(0, -2).square().mean(0))


def test_mask_is_wandas():
    torch.manual_seed(0)
    w, norm = torch.randn(8, 16), torch.rand(16) + 0.1
    weight = torch.nn.Parameter(w.clone())
    optimizer = optimizer_of([weight])
    optimizer.state[weight]["square"].copy_(norm**2)

    optimizer.apply_mask()

    assert torch.equal(weight != 0, Pattern(2, 4).keep(w.abs() * norm))
    assert torch.equal(weight, w.where(weight != 0, 0))


def test_a_pass_without_tokens_adds_nothing():
    linear = torch.nn.Linear(8, 4, bias=False)
    optimizer = optimizer_of([linear.weight])

    with optimizer.watch([(linear, linear.weight)]):
        (linear(torch.zeros(0, 8)).sum() + linear.weight.sum()).backward()
        optimizer.step()

    assert not optimizer.state[linear.weight]["square"].any()
    assert linear.weight.isfinite().all()
    w = linear.weight.detach().clone()
    optimizer.apply_mask()
    assert torch.equal(linear.weight, w.where(Pattern(2, 4).keep(w.abs()), 0)), (
        "the weights alone decide"
    )
