"""Block reconstruction against least squares. It never ends worse or moves a zero."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from baselines.dsnot import DSnoT
from baselines.recon import Recon
from bench.catalog import choice, registry
from helpers.trainings import pruned
from methods.contract.errors import UserError
from methods.contract.method import Compute, Prior
from methods.contract.pattern import Pattern
from methods.model.targets import dense_weight
from methods.workshop.pruning.pairs import Pair
from methods.workshop.training.block_fit import scale, squared_error, weigh


@pytest.fixture
def sparse(llama, make_job, refining):
    """sparse(model) -> a pruned model, by default a llama, and the job that reconstructs it."""

    def make(model=llama):
        job = refining(model, make_job(model))
        return pruned(model, job), job

    return make


class OneLinear(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, 4, bias=False).requires_grad_(False)

    def forward(self, x):
        return self.linear(x)


def one_linear(width=6, tokens=40):
    """Return a block that is one linear, its inputs, and goals with noise."""
    torch.manual_seed(0)
    block = OneLinear(width)
    inputs = [torch.randn(1, tokens, width) for _ in range(4)]
    truth = torch.randn(width, 4)
    goals = [x @ truth + 0.3 * torch.randn(1, tokens, 4) for x in inputs]
    linears = {"block.linear": block.linear}
    return Pair("block", block, linears, inputs, goals, lambda call, x: call(x))


@pytest.mark.numeric
def test_one_linear_under_a_mask_is_least_squares_of_the_kept():
    pair = one_linear()
    weight = pair.block.linear.weight
    weight[:, [1, 4]] = 0
    goals = weigh(pair.goals, normalize=False, by_channel=False, massive=0)

    start, dice = {"linear.weight": weight.clone()}, torch.Generator().manual_seed(0)
    list(Recon(epochs=800, lr=0.02, beta2=0.999).fit(pair, goals, start, dice))

    x, y = (torch.cat([part[0] for part in parts]).double() for parts in (pair.inputs, pair.goals))
    best = torch.linalg.lstsq(x[:, [0, 2, 3, 5]], y).solution.T
    torch.testing.assert_close(weight[:, [0, 2, 3, 5]].double(), best, rtol=1e-3, atol=1e-3)
    assert not weight[:, [1, 4]].any()


def test_a_scaled_model_is_trained_alike():
    """Weights and goals 64 times as small give the same errors, and weights 64 times as small."""
    trained = []
    for size in (1, 1 / 64):
        pair = one_linear()
        start = {"linear.weight": pair.block.linear.weight.detach() * size}
        goals = weigh([y * size for y in pair.goals], normalize=True, by_channel=True, massive=0)
        losses = list(Recon().fit(pair, goals, start, torch.Generator().manual_seed(0)))
        trained.append((losses, pair.block.linear.weight / size))

    assert trained[1][0] == pytest.approx(trained[0][0], rel=1e-4)
    torch.testing.assert_close(trained[1][1], trained[0][1], rtol=1e-4, atol=1e-5)


def test_scale_is_that_of_the_kept_weights():
    parameters = {"up.weight": torch.tensor([[7.0, 0], [0, -1]]), "up.bias": torch.zeros(2)}
    parameters |= {"norm.weight": torch.zeros(2), "term.a": torch.full((2, 2), 0.5)}
    assert [scale(name, parameters) for name in parameters] == [5, 5, 1, 0.5]


def test_weights_of_tokens():
    """Compute by hand: sizes 25, 1 and 10000. The last norm is 20 times the median."""
    outputs = [torch.tensor([[[3.0, 4.0], [1.0, 0.0], [100.0, 0.0]]])]

    plain, normalized, without = (
        weigh(outputs, *rule) for rule in ((False, False, 0), (True, False, 0), (True, False, 10))
    )

    assert plain.weights[0].tolist() == [pytest.approx([1 / 10026] * 3)]
    assert normalized.weights[0].tolist() == [pytest.approx([1 / 75, 1 / 3, 1 / 30000])]
    assert without.weights[0].tolist() == [pytest.approx([1 / 50, 1 / 2, 0])]
    assert [goals.left_out for goals in (plain, normalized, without)] == [0, 0, 1]


def error_of_a_change(outputs, goals, change):
    changed = outputs + torch.tensor(change)
    return float(squared_error(changed, outputs, goals.weights[0], goals.scales))


def test_a_channel_counts_by_its_own_size():
    """Compute by hand: without the last token the channels' sizes are 5 and 50."""
    outputs = [torch.tensor([[[7.0, 10.0], [1.0, 70.0], [1000.0, 0.0]]])]
    goals = weigh(outputs, normalize=True, by_channel=True, massive=10)
    assert goals.scales.tolist() == [5, 50]
    assert goals.left_out == 1
    assert goals.weights[0].tolist() == [pytest.approx([0.5 / 2, 0.5 / 2, 0])]
    assert error_of_a_change(outputs[0], goals, [5.0, 0.0]) == pytest.approx(0.5)


def test_a_channel_that_is_always_0_has_the_size_of_the_others():
    """A low-rank term makes it about 1e-9, which is no error."""
    outputs = [torch.tensor([[[3.0, 4.0, 0.0], [3.0, 4.0, 0.0]]])]
    goals = weigh(outputs, normalize=True, by_channel=True, massive=0)
    assert goals.scales.tolist() == pytest.approx([3, 4, 12.5**0.5])
    assert error_of_a_change(outputs[0], goals, [0, 0, 12.5**0.5]) == pytest.approx(0.5)


def test_error_falls_and_zeros_stay(sparse):
    model, job = sparse()
    start = copy.deepcopy(model)

    got = Recon(epochs=4, lr=1e-3).apply(model, job)

    errors = got.notes["block_error"]
    assert all(a < b for a, b in zip(errors["after"], errors["before"], strict=True))
    assert errors["after"][-1] < 0.95 * errors["before"][-1]
    for name in job.targets:
        old, new = (dense_weight(m.get_submodule(name)) for m in (start, got.model))
        assert torch.equal(new != 0, old != 0), name
        assert not torch.equal(new, old), name


@pytest.mark.full
@pytest.mark.parametrize("target", ["dense", "own-input"])
def test_every_family_comes_nearer_to_its_dense_model(family, make, sparse, target):
    dense = make(family)
    model, job = sparse(dense)

    def distance(m):
        return float((m(job.calibration).logits - dense(job.calibration).logits).square().mean())

    before = distance(model)
    got = Recon(epochs=6, lr=1e-3, target=target).apply(model, job)

    assert distance(got.model) < 0.9 * before


def test_a_step_too_large_is_undone(sparse):
    model, job = sparse()
    job = replace(job, targets=tuple(t for t in job.targets if ".layers.0." in t))
    start = copy.deepcopy(model.state_dict())
    got = Recon(epochs=1, lr=10.0).apply(model, job)
    assert got.notes["blocks_undone"] == 1
    assert got.notes["block_error"]["after"] == got.notes["block_error"]["before"]
    assert all(torch.equal(value, start[name]) for name, value in got.model.state_dict().items())


@pytest.mark.parametrize("norms", [True, False])
def test_norms_are_trained_where_asked(family, make, sparse, norms):
    dense = make(family)
    model, job = sparse(dense)
    job = replace(job, calibration=job.calibration[:2])
    start = copy.deepcopy(model.state_dict())

    got = Recon(epochs=1, norms=norms).apply(model, job)

    after = got.model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, start[name])}
    weights = {f"{t}.weight" for t in job.targets}
    biases = {f"{t}.bias" for t in job.targets} & set(start)
    named_norms = {name for name in start if "norm" in name or ".ln_" in name}
    final = {name for name in named_norms if not any(f".{i}." in name for i in range(3))}
    assert named_norms - final
    assert moved <= weights | got.changed
    assert got.changed == biases | (named_norms - final if norms else set())


def test_bfloat16_trains_in_float32(sparse):
    """Steps below bfloat16's distance add up."""
    model, job = sparse()
    model = model.bfloat16()
    teacher = job.teacher().bfloat16()
    job = replace(job, compute=Compute(dtype=torch.bfloat16), teacher=lambda: teacher)
    start = copy.deepcopy(model.state_dict())

    got = Recon(epochs=8, lr=1e-4).apply(model, job)

    name = job.targets[-1] + ".weight"
    changed = (got.model.state_dict()[name] != start[name]).float().mean()
    assert changed > 0.2
    assert got.notes["block_error"]["after"][-1] < got.notes["block_error"]["before"][-1]


def test_no_negative_zero_where_the_dtype_underflows(sparse):
    """Some weights below zero are smaller than what float16 has."""
    model, job = sparse()
    for name in job.targets:
        model.get_submodule(name).weight.mul_(1e-6)
    model, teacher = model.half(), job.teacher().half()
    job = replace(job, compute=Compute(dtype=torch.float16), teacher=lambda: teacher)

    got = Recon(epochs=1, lr=3e-8).apply(model, job)

    assert got.notes["blocks_undone"] < 3
    for name in job.targets:
        weight = got.model.get_submodule(name).weight
        assert not weight[weight == 0].signbit().any(), name


def test_massive_tokens_are_counted_and_left_out(sparse):
    model, job = sparse()
    model.get_input_embeddings().weight[5] *= 1000
    teacher = copy.deepcopy(model)
    job = replace(job, teacher=lambda: teacher)
    count = int((job.calibration == 5).sum())

    got = Recon(epochs=1).apply(model, job)

    assert count > 0
    assert got.notes["tokens_left_out"] == [count] * 3


def test_says_how_far_it_is(sparse):
    model, job = sparse()
    seen = []

    class Seen:
        def advance(self, done, total, **metrics):
            seen.append((done, total, *metrics))

    Recon(epochs=2).apply(copy.deepcopy(model), replace(job, progress=Seen()))
    assert seen == [(i, 6, "loss") for i in range(1, 7)]

    seen.clear()
    Recon(epochs=0).apply(model, replace(job, progress=Seen()))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("method", [Recon(), DSnoT()])
def test_without_a_prior_it_says_what_to_type(method, llama, job):
    with pytest.raises(UserError, match=f"{method.name}:from=wanda"):
        method.apply(llama, job)


@pytest.mark.parametrize("name", ["recon", "retrain", "dsnot", "lowrank"])
def test_a_start_that_is_not_pruned_is_refused(llama, make_job, refining, name):
    """A model after `rotate` or `dense-ft` is not pruned."""
    job = refining(llama, make_job(llama))
    every = {target: torch.ones_like(mask) for target, mask in job.prior.masks.items()}
    method = choice.build(registry.lookup("methods", name), name, {})
    job = replace(job, prior=replace(job.prior, masks=every))
    with pytest.raises(UserError, match=rf"^{name} needs a model that is pruned to 2:4"):
        method.apply(llama, job)


def test_a_dense_start_is_pruned_by_the_prior(llama, make_job, refining):
    job = refining(llama, make_job(llama))
    got = Recon(epochs=1).apply(llama, job)
    for name in job.targets:
        assert Pattern(2, 4).violations(dense_weight(got.model.get_submodule(name))) == 0
    assert isinstance(job.prior, Prior)
