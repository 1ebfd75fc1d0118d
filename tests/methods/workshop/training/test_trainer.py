"""The trainer, and what every method that trains owes its caller."""

import copy
import json
import signal
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch

from baselines.retrain import train_kept
from bench.catalog.entries import METHODS
from cast.cast import Cast
from helpers.models import build, job_for, sample
from helpers.trainings import LAST_DIGIT, counting, job_to_train, method, pruned, weight_of
from methods.contract.errors import Diverged, UserError
from methods.contract.method import Budget, Compute
from methods.contract.pattern import Pattern
from methods.workshop.training import trainer, training_checkpoint
from methods.workshop.training.interrupt import Stopped, stop_request
from methods.workshop.training.loss import Loss
from methods.workshop.training.settings import TrainingSettings

NAMES = [n for n, e in METHODS.items() if "training" in e.needs and n != "router"]
SHORT = 12
"""Steps of most trainings here."""


def start_of(name, model, job):
    return pruned(model, job) if name in ("retrain", "finetune") else copy.deepcopy(model)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """trained(name, family, **config) -> the dense model, the job and the outcome; trained once."""

    @cache
    def train(name, family, **config):
        model, work = build(family), tmp_path_factory.mktemp("trained")
        options = {"steps": SHORT, "budget": {"log_every": 3}}
        job = job_to_train(
            model, job_for, counting(), work, "dense" if name == "dense-ft" else "2:4", **options
        )
        return model, job, method(name, **config).apply(start_of(name, model, job), job)

    return train


DAILY = [(name, "llama") for name in NAMES if name != "proxsparse"] + [("cast", "gpt2")]


@pytest.mark.parametrize(
    ("name", "family"),
    sample([*DAILY, ("proxsparse", "llama"), *((name, "opt") for name in NAMES)], *DAILY),
)
def test_learns_and_holds_the_pattern(name, family, trained):
    model, job, outcome = trained(name, family)
    was = start_of(name, model, job)
    keys, kinds = set(was.state_dict()), [type(m) for m in was.modules()]

    after = outcome.model
    assert set(after.state_dict()) == keys
    assert [type(m) for m in after.modules()] == kinds
    for target in job.targets:
        weight = weight_of(after, target)
        assert weight.isfinite().all()
        assert job.pattern.violations(weight) == 0
        if name != "dense-ft":
            assert weight.unflatten(-1, (-1, 4)).count_nonzero(-1).eq(2).all()
        if name == "retrain":
            assert torch.equal(weight != 0, job.prior.masks[target])
    changed = {n for n, p in after.named_parameters() if not torch.equal(p, was.get_parameter(n))}
    assert changed - {t + ".weight" for t in job.targets} <= outcome.changed
    assert not {t + ".weight" for t in job.targets} & outcome.changed
    assert not any(p.requires_grad for p in after.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in after.modules())
    notes = outcome.notes
    assert json.loads(json.dumps(notes, allow_nan=False)) == notes
    assert notes["training"]["steps"] == SHORT
    curve = notes["curve"]
    assert curve[-1]["ce"] < curve[0]["ce"]


@pytest.mark.parametrize("name", sample(NAMES, "cast"))
def test_killed_and_resumed_equals_undisturbed(name, trained, tmp_path):
    """Bit for bit: weights, curve, notes."""
    llama, job, straight = trained(name, "llama")

    class Killed(Exception):
        pass

    class Kill:
        def advance(self, done, total, **figures):
            if done == 6:
                raise Killed

    budget = replace(job.budget, checkpoint_s=0)
    second = replace(job, workdir=tmp_path / "second", progress=Kill(), budget=budget)
    with pytest.raises(Killed):
        method(name).apply(start_of(name, llama, job), second)
    assert training_checkpoint.latest(second.workdir).name == "step-5"
    files = sorted(p.suffix for p in training_checkpoint.latest(second.workdir).iterdir())
    assert set(files) == {".json", ".safetensors"}

    resumed = method(name).apply(start_of(name, llama, job), replace(second, progress=job.progress))

    assert resumed.notes == straight.notes
    for p, q in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q)


UPDATING = [("sr-ste", {"refresh": 3}, at) for at in (7, 9)]
"""Step 7 updates the masks, step 9 does not."""


@pytest.mark.parametrize(
    ("name", "config", "at"),
    sample([*(("cast", {}, at) for at in (3, 8, 10)), *UPDATING, ("ast", {}, 7)], *UPDATING),
)
def test_asked_to_stop_it_saves_the_last_whole_step(name, config, at, trained, tmp_path):
    """A process by itself stops between micro-batches, so a step that has begun is done again."""
    llama, job, straight = trained(name, "llama", **config)
    started = []
    real = job.training.batch

    class Asked:
        """The corpus, which is asked for each step's batch."""

        def __getattr__(self, name):
            return getattr(job.training, name)

        def batch(self, step, *ranks):
            started.append(step)
            if step == at - 1:
                stop_request.receive(signal.SIGTERM)
            return real(step, *ranks)

    try:
        with pytest.raises(Stopped):
            method(name, **config).apply(
                copy.deepcopy(llama), replace(job, training=Asked(), workdir=tmp_path)
            )
    finally:
        stop_request.reset()
    assert started == list(range(at))
    assert training_checkpoint.latest(tmp_path).name == f"step-{at - 1}"

    resumed = method(name, **config).apply(copy.deepcopy(llama), replace(job, workdir=tmp_path))

    assert resumed.notes == straight.notes
    for p, q in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("name", "fields"), [("cast", {}), ("cast", {"hidden": 0.3}), ("maskllm", {"lambda_": 1e-3})]
)
def test_micro_batches_add_up_and_recomputing_changes_nothing(name, fields, llama, task):
    job = task(llama, steps=3, budget={"log_every": 1})
    whole = replace(job, budget=replace(job.budget, micro=None), workdir=job.workdir / "b")

    def trained(job, **more):
        return method(name, **fields, **more).apply(copy.deepcopy(llama), job)

    one, two = (trained(j).notes["curve"] for j in (job, whole))
    again = trained(replace(job, workdir=job.workdir / "c"), recompute=True)

    for row, other in zip(one, two, strict=True):
        assert row == pytest.approx(other, rel=1e-3)
    assert one[-1]["loss"] == pytest.approx(two[-1]["loss"], rel=1e-4)
    assert one == again.notes["curve"]
    assert not again.model.training


def test_bfloat16_trains_masters_in_float32(llama, task, monkeypatch):
    model = copy.deepcopy(llama).to(torch.bfloat16)
    job = task(model, steps=SHORT, budget={"log_every": 3})
    job = replace(job, compute=replace(job.compute, dtype=torch.bfloat16))
    seen = []
    real = trainer.Trainer.run

    def watch(self, optimizer, **options):
        seen.append({p.dtype for group in optimizer.param_groups for p in group["params"]})
        return real(self, optimizer, **options)

    monkeypatch.setattr(trainer.Trainer, "run", watch)
    outcome = Cast(lr=3e-3).apply(model, job)

    assert seen == [{torch.float32}]
    assert {p.dtype for p in outcome.model.parameters()} == {torch.bfloat16}
    assert outcome.notes["curve"][-1]["ce"] < outcome.notes["curve"][0]["ce"]


def test_schedule():
    settings = TrainingSettings(lr=1.0, warmup=0.1, final_lr_ratio=0.2)
    rates = [settings.lr_at(step, 100, 1.0) for step in range(100)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert max(rates) == 1.0 and rates[10] == 1.0
    assert rates[55] == pytest.approx(0.6)
    assert rates[-1] == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("name", ["cast", "retrain"])
def test_a_relative_rate_is_in_units_of_the_weights_root_mean_square(name, llama, task):
    model = start_of("retrain", llama, task(llama))
    weights = torch.cat([model.get_submodule(t).weight.flatten() for t in task(model).targets])
    absolute = 0.01 * float(weights.square().mean().sqrt())
    curves = []
    for k, rate in enumerate(({"relative_lr": 0.01}, {"lr": absolute})):
        job = task(llama, steps=2, budget={"log_every": 1})
        job = replace(job, workdir=job.workdir / str(k))
        curves.append(type(method(name))(**rate).apply(copy.deepcopy(model), job).notes["curve"])

    relative, plain = ([row["lr"] for row in curve] for curve in curves)
    assert relative == pytest.approx(plain, rel=1e-5)
    assert relative[1] and len(relative) == 2


@pytest.mark.parametrize("name", ["cast", "maskllm", "recon"])
def test_two_learning_rates_are_refused(name):
    with pytest.raises(UserError, match=r"lr=0\.001 and relative_lr=0\.01 are two"):
        method(name, lr=1e-3, relative_lr=0.01)


class ReverseKL(Loss):
    """KL(student || teacher), and the square distance of each block's output."""

    terms, needs_logits, blocks_every, blocks_weight = ("reverse_kl",), True, 1, 1e-3

    def of_tokens(self, logits, targets, teacher):
        log_q, log_p = logits.log_softmax(-1), teacher.log_softmax(-1)
        return ((log_q.exp() * (log_q - log_p)).sum(),)

    def of_block(self, student, teacher):
        return (student - teacher).square().sum()


@pytest.mark.numeric
def test_a_method_brings_its_own_loss(llama, task):
    """It needs no cross-entropy. The validation has it in any case."""

    @dataclass(frozen=True, kw_only=True)
    class Mine(TrainingSettings):
        def loss(self):
            return ReverseKL()

    job = task(llama, steps=SHORT, budget={"log_every": 1})
    masks = job.prior.masks.__getitem__
    outcome = train_kept("mine", Mine(lr=3e-3), pruned(llama, job), job, masks)

    curve = outcome.notes["curve"]
    assert list(curve[0]) == ["step", "lr", "loss", "reverse_kl", "hidden", "norm"]
    for row in curve:
        want = row["reverse_kl"] + 1e-3 * row["hidden"]
        assert row["loss"] == pytest.approx(want, rel=1e-4)
    assert 0 < curve[-1]["reverse_kl"] < 0.8 * curve[0]["reverse_kl"]
    assert set(outcome.notes["validation_perplexity"]) == {"start", "end"}


class SmallVocabulary(torch.nn.Module):
    def get_output_embeddings(self):
        return torch.nn.Linear(8, 60, bias=False)


UNSTRUCTURED = {"pattern": Pattern.parse("50%")}
WITH_GROUPS = ("cast", "sr-ste", "ast", "maskllm", "proxsparse")


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("cast", {"budget": Budget(tokens=100)}, "tokens=100 is less than one step of 128"),
        ("cast", {"teacher": SmallVocabulary}, r"different vocabularies \(60 and 64\)"),
        ("dense-ft", {"compute": Compute(dtype=torch.float16)}, "float16 loses small gradients"),
        *((name, UNSTRUCTURED, f"{name} needs an n:m pattern") for name in WITH_GROUPS),
    ],
)
def test_what_a_training_cannot_do_is_refused(name, fields, said, llama, task):
    with pytest.raises(UserError, match=said):
        method(name).apply(llama, replace(task(llama), **fields))


@pytest.mark.parametrize(
    ("factor", "budget", "said"),
    [
        (float("nan"), {"checkpoint_s": 0}, r"step 5 of 12: .*last good checkpoint: step-4"),
        (-50, {}, "cast at step 5 of 12"),
    ],
    ids=["NaN", "three times the loss at the start"],
)
def test_divergence_names_the_step_and_the_checkpoint(factor, budget, said, llama, task):
    """Weights blow up after the first checkpoint."""
    model = copy.deepcopy(llama)

    class Poison:
        def advance(self, done, total, **figures):
            if done == 4:
                model.lm_head.weight.data.mul_(factor)

    job = task(llama, steps=SHORT, budget=budget | {"log_every": 1}, progress=Poison())
    with pytest.raises(Diverged, match=said):
        method("cast").apply(model, job)


def test_final_prune_and_lambda_are_noted(trained):
    notes = trained("cast", "llama")[2].notes

    assert notes["lambda_"] > 0
    assert 0.5 < notes["S"] <= 1
    found = notes["validation_perplexity"]
    assert set(found) == {"start", "before_final_prune", "after_final_prune"}
    cost = found["after_final_prune"] / found["before_final_prune"] - 1
    assert notes["final_prune_cost"] == pytest.approx(cost, abs=1e-3)
    columns = {"S", "flipped", "lr", "alpha", "loss", "ce", "kl", "norm", "step"}
    assert columns <= set(notes["curve"][-1])


ABLATIONS = ({"fixed": True}, {"scales": 0}, {"eta": 0.0}, {"decoupled": True}, {"lambda_": 0.01})


@pytest.mark.parametrize("config", sample(ABLATIONS, ABLATIONS[0]))
def test_ablations_make_other_models(config, llama, task):
    job = task(llama, steps=4)
    plain = method("cast").apply(copy.deepcopy(llama), job).model.parameters()
    there = replace(job, workdir=job.workdir / "b")
    other = method("cast", **config).apply(copy.deepcopy(llama), there).model.parameters()
    assert any(not torch.equal(p, q) for p, q in zip(plain, other, strict=True))


GOLDEN = {
    "ce": [
        4.17878, 4.06153, 3.98444, 3.96922, 3.89951, 3.93929, 3.89962, 3.74803, 3.73755, 3.667,
        3.57385, 3.49935, 3.51476, 3.40597, 3.36953, 3.32291, 3.25734, 3.50118, 3.31415, 3.25374,
    ],
    "kl": [
        0.0, 0.131134, 0.159126, 0.16436, 0.171291, 0.142435, 0.154182, 0.159073, 0.150544,
        0.156348, 0.143599, 0.156537, 0.154057, 0.155349, 0.161714, 0.166842, 0.181218, 0.162175,
        0.163773, 0.163444,
    ],
    "norm": [
        0.992072, 0.971116, 1.52679, 0.800088, 0.865595, 0.958436, 1.15222, 0.885836, 1.05196,
        1.10792, 1.10921, 1.24472, 0.996947, 0.834292, 1.16053, 1.05202, 0.956434, 0.960095,
        0.99384, 0.924729,
    ],
    "S": [0.696954] * 10 + [0.953927] * 10,
    "flipped": [0.0] * 10 + [0.0566406] * 10,
    "alpha": [0.0] * 10 + [0.5] * 10,
}  # fmt: skip


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("kernel", "moved"),
    sample([("foreach", 0.0), ("reference", 0.0), ("foreach", 1e-10)], ("foreach", 0.0)),
)
def test_golden_trace(kernel, moved, make_exact, task):
    """Twenty steps of CAST, number by number; written by this code on 2026-11-25, so a change of
    arithmetic is meant.

    In float64, on any processor: a start moved by a million roundings turns no mark and no digit
    but the last of six. S alone is summed in float32, in which 2^13 weights added pairwise lose 13
    roundings of 6e-8, a tenth of that digit.
    """
    model = make_exact("llama", moved)
    job = task(model, steps=20, budget={"log_every": 1})

    curve = method("cast", lambda_=1e-2, kernel=kernel).apply(model, job).notes["curve"]

    assert [r["step"] for r in curve] == list(range(1, 21))
    for name, golden in GOLDEN.items():
        assert [r[name] for r in curve] == pytest.approx(golden, rel=LAST_DIGIT), name


def test_a_runner_is_told_of_a_validation(llama, task):
    class Told(list):
        def enter(self, state):
            self.append(state)

        def advance(self, done, total, **figures):
            self.append(f"{done}/{total}")

    told = Told()
    Cast().apply(copy.deepcopy(llama), task(llama, steps=1, progress=told))

    assert told == ["validating", "first step", "1/1", "validating", "validating"]


@pytest.mark.parametrize("name", sample(["cast", "elsa"], "cast"))
def test_without_validation_windows_it_trains_and_saves(name, llama, task):
    job = replace(task(llama, steps=2, budget={"checkpoint_s": 0}), validation=None)
    notes = method(name).apply(copy.deepcopy(llama), job).notes
    assert training_checkpoint.latest(job.workdir) and not notes["validation_perplexity"]
    json.dumps(notes, allow_nan=False)


def test_a_curve_has_all_flips_so_far(llama, task):
    outcome = method("sr-ste").apply(llama, task(llama, steps=6, budget={"log_every": 1}))
    flipped = [row["flipped"] for row in outcome.notes["curve"]]
    assert flipped == sorted(flipped) and flipped[0] == 0 < flipped[-1]


def test_a_long_curve_keeps_its_last_step(llama, task, monkeypatch):
    monkeypatch.setattr(trainer, "MAX_CURVE_ROWS", 2)
    job = task(llama, pattern="dense", steps=3, budget={"log_every": 1})
    notes = method("dense-ft").apply(copy.deepcopy(llama), job).notes
    assert [row["step"] for row in notes["curve"]] == [1, 3]
