"""The chain to take with a budget of time, in the docs."""

from types import SimpleNamespace

import pytest

from bench.reporting.facts import Interval

SCRIPT = "budget_tables"


@pytest.fixture
def chains(script):
    rows = [("quick", 50.0, 30), ("sound", 31.0, 400), ("best", 30.0, 500), ("long", 20.0, 90_000)]
    return [script.Chain(label, perplexity, seconds, "cpu") for label, perplexity, seconds in rows]


def ratio(value, low):
    return Interval(value, low, 2 * value - low, 13, "articles", 3, 0.5, "")


def record(model):
    return SimpleNamespace(identity=SimpleNamespace(model=model))


def test_the_fastest_of_those_that_cannot_be_told_apart(script, chains):
    def tied(before, after):
        return ratio(1.03, 0.99) if (before, after) == ("best", "sound") else ratio(1.5, 1.4)

    assert script.pick(chains, 10, tied) is None
    assert script.pick(chains, 60, tied) == (chains[0], None)
    assert script.pick(chains, 600, tied) == (chains[1], ratio(1.03, 0.99))
    assert script.pick(chains, 600, lambda *_: ratio(1.03, 1.01)) == (chains[2], None)
    assert script.pick(chains, 600, lambda *_: None) == (chains[2], None)


def test_a_line_for_each_budget_that_a_chain_fits(script, chains, monkeypatch):
    models = {name: SimpleNamespace(records=[record(name)]) for name in "ab"}
    measured = {"a": chains, "b": []}
    monkeypatch.setattr(script, "merge", models.get)
    monkeypatch.setattr(script, "_chains", lambda found: measured[found.records[0].identity.model])
    monkeypatch.setattr(script, "_chain_ratio", lambda *_: ratio(1.03, 0.99))
    lines = script.budget("a", "b").splitlines()

    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        ["| a minute", "a", "quick"],
        *([f"| {name}", "a", "quick"] for name in ("ten minutes", "an hour", "a day")),
    ]
    assert lines[-1].endswith("| 30 s, cpu | 50.00 | 1.030 (0.990 to 1.070) |")
