"""Low-rank terms against their definition."""

import copy

import pytest
import torch

from baselines.alps import make_problem
from baselines.lowrank import LowRank, joint, low_rank, rank_for, root_of
from bench.verify import CheckFailed, WeightCounts, count_terms
from helpers.layers import inputs_of
from helpers.models import REPRESENTATIVES, build, job_for, sample, with_prior, write
from methods.contract.errors import UserError
from methods.model import low_rank_adapter
from methods.model.folder import Folder
from methods.model.targets import dense_weight
from methods.model.terms import terms_of


def pruned(family, pattern="2:4"):
    """Build a dense model, and the job of a stage that refines magnitude's mask."""
    model = build(family)
    return model, with_prior(model, job_for(model, pattern))


def terms(outcome):
    return terms_of(outcome.model, torch.float32)


@pytest.mark.parametrize("settings", [{}, {"joint": 20}])
@pytest.mark.parametrize("family", sample(REPRESENTATIVES, "llama"))
@torch.inference_mode()
def test_full_rank_is_the_dense_model_and_rank_0_the_sparse_one(family, settings):
    dense, job = pruned(family)
    sparse = copy.deepcopy(dense)
    for name in job.targets:
        dense_weight(sparse.get_submodule(name)).masked_fill_(~job.prior.masks[name], 0)
    tokens = job.calibration

    full = LowRank(rank=1000, **settings).apply(copy.deepcopy(dense), job)
    none = LowRank(rank=0, **settings).apply(copy.deepcopy(dense), job)

    assert terms(none) == {} and set(terms(full)) == set(job.targets)
    expected, without, got, zero = (
        m(input_ids=tokens).logits for m in (dense, sparse, full.model, none.model)
    )
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(zero, without)
    if not settings:
        assert all(map(torch.equal, *(m.state_dict().values() for m in (full.model, sparse))))


@pytest.mark.parametrize(
    "settings", [{}, {"joint": 2}, {"svd": "diagonal", "damping": 0.0}], ids=str
)
def test_inputs_that_are_always_0(settings):
    """Without a term for them, nothing is lost."""
    dense, job = pruned("llama")
    dense.model.layers[1].input_layernorm.weight.zero_()
    dense.model.layers[1].post_attention_layernorm.weight.zero_()
    outcome = LowRank(**settings).apply(dense, job)
    for name, term in terms(outcome).items():
        assert term.a.isfinite().all() and term.b.isfinite().all(), name


@torch.inference_mode()
def test_no_rank_is_spent_on_inputs_that_are_always_0():
    """Half of the inputs of q, k and v are. The term is the best for the other half, in float64."""
    dense, job = pruned("llama")
    dense.model.layers[0].input_layernorm.weight[::2] = 0
    seen = inputs_of(dense, job)
    job = with_prior(dense, job)
    weights = {name: dense.get_submodule(name).weight.double().clone() for name in job.targets[:3]}

    found = LowRank(rank=4).apply(dense, job).notes["reconstruction_error"]

    for name, weight in weights.items():
        x = seen[name].double()
        lost = torch.linalg.svdvals(x @ weight.masked_fill(job.prior.masks[name], 0).T)
        least = lost[4:].square().sum() / (x @ weight.T).square().sum()
        assert found[name] == pytest.approx(float(least), rel=1e-2), name


@torch.inference_mode()
def test_whitened_svd_has_the_smallest_output_error_on_every_layer():
    """Compare with the optimum of Eckart and Young, in float64."""
    dense, job = pruned("llama")
    for name, x in inputs_of(dense, job).items():
        x, weight = x.double(), dense.get_submodule(name).weight.double()
        error, moment = weight.masked_fill(job.prior.masks[name], 0), x.T @ x

        def loss(svd, error=error, moment=moment, x=x):
            b, a, _ = low_rank(error, root_of(moment, svd, 1e-6), 4)
            return float((x @ (error - b @ a).T).square().sum())

        damping = 1e-6 * moment.diagonal().mean()
        values, vectors = torch.linalg.eigh(moment + damping * torch.eye(len(moment)))
        half = vectors * values.sqrt() @ vectors.T
        least = torch.linalg.svdvals(error @ half)[4:].square().sum()
        assert loss("whitened") == pytest.approx(float(least), rel=1e-3), name
        assert loss("whitened") < 0.99 * loss("plain"), name
        assert loss("whitened") < loss("diagonal"), name


def errors(settings, family="llama", pattern="2:4"):
    """Relative error of the outputs of each target, from the same masks."""
    dense, job = pruned(family, pattern)
    outcome = LowRank(rank=4, **settings).apply(dense, job)
    for name in job.targets:
        assert not job.pattern.violations(dense_weight(dense.get_submodule(name)))
    return outcome.notes["reconstruction_error"]


@pytest.mark.parametrize("pattern", sample(["2:4", "50%"], "2:4"))
@torch.inference_mode()
def test_rounds_lower_the_error_and_joint_admm_lowers_it_more(pattern):
    one, rounds, joint = (
        errors(settings, pattern=pattern) for settings in ({}, {"rounds": 4}, {"joint": 100})
    )
    assert sum(rounds.values()) < 0.95 * sum(one.values())
    assert sum(joint.values()) < 0.8 * sum(rounds.values())
    assert all(joint[name] < one[name] for name in one)


@torch.inference_mode()
def test_joint_admm_is_a_local_optimum_of_its_layer():
    """Compare with least squares under the mask, in float64."""
    dense, job = pruned("llama")
    x = inputs_of(dense, job)[name := job.targets[0]].double()
    goal, moment = dense.get_submodule(name).weight.double(), x.T @ x
    problem, _ = make_problem(moment.clone(), 1e-3)
    moment = problem.hessian * problem.norm * problem.norm[:, None]
    sparse = joint(goal * problem.norm, job.prior.masks[name], problem, job.pattern, 4, 300)
    sparse = sparse / problem.norm
    root = root_of(moment, "whitened", 1e-9)
    b, a, _ = low_rank(goal - sparse, root, 4)
    reached = float(((goal - sparse - b @ a) @ root).square().sum())

    refitted = sparse.clone()
    for row, keep in enumerate(sparse != 0):
        wanted = (goal - b @ a)[row] @ root
        refitted[row, keep] = torch.linalg.lstsq(root[keep].T, wanted[:, None]).solution[:, 0]
    best = float(((goal - refitted - b @ a) @ root).square().sum())
    assert best <= reached == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize(("factors", "most"), [("int8", 1.001), ("int4", 1.2)])
@torch.inference_mode()
def test_rounded_factors_are_integers_with_scales(factors, most, tmp_path):
    dense, job = pruned("llama")
    whole = LowRank(rank=4).apply(copy.deepcopy(dense), job).notes["reconstruction_error"]
    outcome = LowRank(rank=4, factors=factors).apply(dense, job)
    found, bits = terms(outcome), int(factors[3:])

    for term in found.values():
        for factor in (term.a, term.b.T):
            for component in factor.view(-1, min(128, factor.shape[1])):
                assert len(component.unique()) <= 2**bits
    whole, rounded = (sum(e.values()) for e in (whole, outcome.notes["reconstruction_error"]))
    assert whole < rounded < most * whole
    write(outcome.model, tmp_path / "model")
    low_rank_adapter.write(tmp_path / "model", found, transposed=False)
    back = low_rank_adapter.read(tmp_path / "model")
    assert low_rank_adapter.are_equal(back, found) and {term.bits for term in back.values()} == {
        bits
    }
    counts = WeightCounts(job.pattern, layers=dict.fromkeys(job.targets))
    count_terms(counts, back, Folder(tmp_path / "model"), torch.float32)
    # One scale for each component of a factor.
    sides = [32 + 32, 32 + 16, 32 + 16, 32 + 32, 32 + 64, 32 + 64, 64 + 32]
    assert counts.term_bytes_packed == 3 * sum(4 * side * bits // 8 + 4 * 2 * 2 for side in sides)
    assert counts.term_bytes == 3 * sum(4 * side * 4 for side in sides)
    name = job.targets[0]
    back[name].a.add_(torch.randn_like(back[name].a))
    if bits == 4:
        with pytest.raises(CheckFailed, match="than 4 bits can tell apart"):
            count_terms(counts, back, Folder(tmp_path / "model"), torch.float32)


def test_budget_of_rounded_factors_is_in_their_bytes():
    rule = LowRank(rank="10%", factors="int4")
    share = rule._share_of_bits(torch.Size((512, 1024)), torch.bfloat16)
    assert share == pytest.approx((4 + 16 / 128) / 16)
    assert rank_for("10%", torch.Size((512, 1024)), share) == int(0.1 * 512 * 1024 / 1536 / share)


@pytest.mark.parametrize(
    ("rank", "shape", "expected"),
    [(16, (64, 32), 16), (100, (64, 32), 32), ("10%", (64, 32), 2), ("1%", (64, 32), 0)],
)
def test_budget_is_a_share_of_the_dense_bytes(rank, shape, expected):
    assert rank_for(rank, torch.Size(shape)) == expected


def test_a_share_that_is_too_small_for_a_rank_is_refused_before_any_weight_changes():
    model, job = pruned("llama")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=f"rank=0.1% is too small for rank 1 in {job.targets[0]}"):
        LowRank(rank="0.1%").apply(model, job)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not LowRank(rank="0%").apply(model, job).notes["ranks"]
