"""Shares of a budget: against all choices that there are, and in a model whose damages do not add up."""

import itertools
import json

import numpy as np
import pytest

from bench.execution.allocation import _Problem, solve
from helpers import runs
from methods.errors import UserError


@pytest.fixture
def table():
    random = np.random.default_rng(0)
    return random.random((4, 3)), random.integers(1, 9, (4, 3)) / 4


def test_no_other_choices_within_the_budget_do_less_damage(table):
    damage, cost = table
    rows = np.arange(4)
    for budget in (cost.min(1).sum(), cost.mean(1).sum(), cost.max(1).sum()):
        fitting = [c for c in itertools.product(range(3), repeat=4) if cost[rows, list(c)].sum() <= budget]
        least = min(damage[rows, list(c)].sum() for c in fitting)
        chosen = solve(damage, cost, budget)
        assert cost[rows, chosen].sum() <= budget + 1e-9
        assert damage[rows, chosen].sum() == pytest.approx(least)


def test_a_budget_below_all_choices_is_a_sentence(table):
    with pytest.raises(UserError, match=r"no choices fit 0\.5 bits: raise --bits"):
        solve(*table, 0.5)


def test_swaps_lower_what_is_measured_and_keep_the_budget():
    problem = _Problem.__new__(_Problem)
    problem.bits, problem.share = np.tile([3.0, 4.0], (4, 1)), np.full(4, 0.25)
    damage, best = np.array([[4.0, 0], [3, 0], [2, 0], [1, 0]]), (1, 0, 1, 0)
    tried = []

    def measure(chosen):
        tried.append(tuple(chosen))
        return float(np.abs(np.array(best) - chosen).sum())

    problem.measure = measure
    first = solve(damage, problem.bits * problem.share[:, None], 3.5)
    assert tuple(first) == (1, 1, 0, 0)
    assert tuple(problem.refine(first, damage, 3.5, swaps=6)) == best
    assert len(tried) == len(set(tried)) <= 7
    assert all(sum(chosen) <= 2 for chosen in tried)


def test_the_file_of_the_command_is_a_row(cli, tmp_path, monkeypatch):
    runs.workers_here(monkeypatch)
    out = tmp_path / "a.json"
    small = ("--set", "targets.include=*.0.mlp.*", "--set", "calibration.sequences=2", "--set", "threads=1")
    code, said, err = cli(
        "allocate", "--choices", "int3-rtn,int8", "--bits", "5", "--tokens", "256", "--swaps", "2", *small,
        "--device", "cpu", "--out", str(out), "--json",
    )  # fmt: skip
    assert code == 0, err
    rows = {row["choice"]: row for row in json.loads(said)}
    assert rows["int8"]["measured KL"] < rows["allocated"]["measured KL"] < rows["int3-rtn"]["measured KL"]
    assert rows["allocated"]["bits per weight"] <= 5
    linears = json.loads(out.read_text())["linears"]
    assert set(linears.values()) == {"int3-rtn", "int8"} and len(linears) == 3

    code, said, err = cli(
        "run", "--methods", "dense", "--quant", f"allocated:file={out}", "--measures", "size", *small,
        "--device", "cpu", "--results", str(tmp_path / "r"), "--json",
    )  # fmt: skip
    assert code == 0, err
    bits = {r["quantizer"]: r["value"] for r in json.loads(said) if r["metric"] == "bits_per_weight"}
    assert bits[f"allocated:file={out}"] == pytest.approx(rows["allocated"]["bits per weight"], abs=1e-3)


def test_a_choice_that_a_linear_cannot_have(cli, tmp_path):
    code, _, err = cli("allocate", "--choices", "int8,hqq", "--bits", "5", "--out", str(tmp_path / "a.json"))
    assert code == 2
    assert "hqq" in err and "int8" in err
