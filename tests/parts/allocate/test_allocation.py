"""Shares of a budget: against all choices that there are, and in a model whose damages do not add
up."""

import itertools
import json

import numpy as np
import pytest

from bench.catalog.choice import parse_chain
from bench.parts.allocate import allocation
from bench.parts.allocate.allocated import LinearChoice
from bench.parts.allocate.allocation import Budget, _Problem, solve
from bench.results import computed
from helpers import runs
from methods.contract.errors import UserError

OPEN = computed._open


@pytest.fixture
def table():
    random = np.random.default_rng(0)
    return random.random((4, 3)), random.integers(1, 9, (4, 3)) / 4


@pytest.mark.parametrize(
    ("method", "prior"),
    [
        ("awq:group=32", "awq/group=32"),
        ("awq:from=rotate+permute", "rotate+permute+awq"),
        ("awq:group=32:from=rotate/seed=1", "rotate/seed=1+awq/group=32"),
    ],
)
def test_a_pruned_choice_has_the_stages_of_the_others_before_it(method, prior):
    assert allocation._as_prior(method) == prior
    names = [(c.name, c.config) for c in parse_chain(method)]
    assert [(c.name, c.config) for c in parse_chain(f"sparsegpt:from={prior}")][:-1] == names


def test_no_other_choices_within_the_budget_do_less_damage(table):
    damage, cost = table
    rows = np.arange(4)
    for budget in (cost.min(1).sum(), cost.mean(1).sum(), cost.max(1).sum()):
        fitting = [
            c for c in itertools.product(range(3), repeat=4) if cost[rows, list(c)].sum() <= budget
        ]
        least = min(damage[rows, list(c)].sum() for c in fitting)
        chosen = solve(damage, cost, Budget(budget))
        assert cost[rows, chosen].sum() <= budget + 1e-9
        assert damage[rows, chosen].sum() == pytest.approx(least)


def test_a_budget_below_all_choices_is_a_sentence(table):
    with pytest.raises(UserError, match=r"no choices fit --bits 0\.5: raise it"):
        solve(*table, Budget(0.5))


def test_swaps_lower_what_is_measured_and_keep_the_budget():
    problem = _Problem.__new__(_Problem)
    problem.bits, problem.share = np.tile([3.0, 4.0], (4, 1)), np.full(4, 0.25)
    damage, best = np.array([[4.0, 0], [3, 0], [2, 0], [1, 0]]), (1, 0, 1, 0)
    problem._note, tried = str, []

    def measure(chosen):
        tried.append(tuple(chosen))
        return float(np.abs(np.array(best) - chosen).sum())

    problem.measure = measure
    cost = problem.costs(Budget(3.5))
    first = solve(damage, cost, Budget(3.5))
    assert tuple(first) == (1, 1, 0, 0)
    assert tuple(problem.refine(first, damage, cost, 3.5, swaps=6)) == best
    assert len(tried) == len(set(tried)) <= 7
    best = (1, 1, 1, 1)  # beyond the budget
    problem.refine(first, damage, cost, 3.5, swaps=32)  # more than fit
    assert all(sum(chosen) <= 2 for chosen in tried)


@pytest.mark.parametrize(
    ("choices", "budget", "limit", "key"),
    [("int3-rtn,int8", "--bits", 5, "bits per weight"), ("1:4,2:4,dense", "--kept", 0.5, "kept")],
)
def test_the_file_of_the_command_is_a_row(
    choices, budget, limit, key, output, tmp_path, monkeypatch
):
    runs.workers_here(monkeypatch)
    monkeypatch.setattr(computed, "_open", OPEN)
    monkeypatch.setattr(allocation, "memory", lambda _: computed.Memory(tmp_path / "known"))
    out = tmp_path / "a.json"
    settings = ("targets.include=*.0.mlp.*", "calibration.sequences=2", "threads=1")
    small = ("--device", "cpu", "--json", *(f"--set={setting}" for setting in settings))
    line = (
        f"allocate --choices {choices} {budget} {limit} --tokens 256 --swaps 2 --pruner magnitude"
    )
    said = output(line, *small, "--out", out)
    rows = {row["choice"]: row for row in json.loads(said)}
    # An interrupted command goes on.
    monkeypatch.setattr(_Problem, "_divergence", lambda *_: pytest.fail("measured again"))
    assert output(line, *small, "--out", out) == said
    worst, *_, best = choices.split(",")
    assert rows[best]["measured KL"] < rows["allocated"]["measured KL"] < rows[worst]["measured KL"]
    assert rows["allocated"][key] <= limit
    linears = json.loads(out.read_text())["linears"]
    assert set(linears.values()) <= set(choices.split(",")) and len(linears) == 3

    name = f"allocated:file={out}:embed=int8"
    results = ("--results", tmp_path / "r")
    said = output("run --methods dense --measures size --quant", name, *small, *results)
    found = {r["metric"]: r["value"] for r in json.loads(said) if r["quantizer"] == name}
    assert found["bits_per_weight"] == pytest.approx(rows["allocated"]["bits per weight"], abs=1e-3)
    if key == "kept":
        assert 1 - found["sparsity"] == pytest.approx(rows["allocated"]["kept"], abs=5e-3)


def test_bits_of_a_pruned_method_have_its_mask(monkeypatch):
    """2:4 with int8: half of the values, a bit of mask, and scales."""
    runs.workers_here(monkeypatch)
    spec = runs.small("r", methods=("magnitude",), quantizers=("none",), measures=("size",))
    parsed = [LinearChoice.parse("int8")]
    problem = _Problem(
        allocation._artifacts(spec, parsed, "sparsegpt"), ["int8"], parsed, lambda _: None
    )
    problem.make()

    assert ((problem.bits > 5) & (problem.bits < 5.5)).all() and (problem.kept == 1).all()


def test_a_budget_below_the_smallest_choices_is_a_sentence(cli, tmp_path, monkeypatch):
    runs.workers_here(monkeypatch)
    monkeypatch.setattr(allocation._Problem, "read", lambda *_: pytest.fail("said after the work"))
    small = "--set=calibration.sequences=2 --set=calibration.seqlen=32 --set=threads=1"
    line = f"allocate --choices int4-gptq,int8 {small} --bits 4 --out"
    code, _, said = cli(line, tmp_path / "a.json")
    assert code == 2 and "--bits 4 is below the 4.209 bits of the smallest choices" in said


def test_a_choice_alone_that_is_better_takes_the_place_of_what_was_found():
    """Damages say that 3.5 bits are best spent on the first linears, and the model says they are
    not."""
    said = []
    problem = _Problem.__new__(_Problem)
    problem.choices, problem.targets = ("two", "three", "four"), ("a", "b")
    problem._note = said.append
    problem.bits, problem.share = np.tile([2.0, 3.0, 4.0], (2, 1)), np.full(2, 0.5)
    problem.kept = np.ones((2, 3))
    problem.make = problem.read = lambda *_: None
    problem.measure_damage = lambda: np.array([[1.0, 0.8, 0], [0.1, 0.08, 0]])
    problem.measure = lambda chosen, judge=False: len(set(chosen)) - sum(chosen) / 10

    shares = allocation._allocate(problem, Budget(3), 0, 0, said.append)

    found = {share.name: share for share in shares}
    assert set(found["allocated"].linears.values()) == {"three"} and shares[0].name == "allocated"
    assert found["found"].linears == {"a": "four", "b": "two"}
    assert "three is better than the allocation that was found" in said[-1]
    allocation._allocate(problem, Budget(2.5), 0, 0, said.append)
    assert any("no choice alone comes near --bits 2.5" in line for line in said)


def test_a_default_does_not_override_the_config(cli, monkeypatch, tmp_path):
    specs = []

    def take(spec, *_):
        specs.append(spec)
        raise UserError("enough")

    monkeypatch.setattr(allocation, "allocate", take)
    (tmp_path / "x.toml").write_text('models = "smollm2-135m"\nmethods = "awq"\nseeds = 7\n')
    line = ["--choices", "int8", "--bits", "9", "--config", tmp_path / "x.toml"]
    cli("allocate", *line, "--out", tmp_path / "out")

    (spec,) = specs
    assert (spec.models, spec.methods, spec.seeds) == (("smollm2-135m",), ("awq",), (7,))
