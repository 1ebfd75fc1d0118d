"""bench history: steps beyond noise, and changes of machine."""

import json

import numpy as np
import pytest

from bench.parts.history import changepoints
from helpers import fake_records

pytestmark = pytest.mark.usefixtures("cache", "in_tmp_path")


def test_a_step_is_found_and_noise_is_none():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 40)

    assert changepoints.find_steps(noise + np.where(np.arange(40) < 25, 0, 5)) == [25]
    assert changepoints.find_steps(
        noise + np.select([np.arange(40) < 12, np.arange(40) < 26], [0, 6], -4)
    ) == [12, 26]
    assert changepoints.find_steps(np.ones(20)) == []
    assert changepoints.find_steps(np.r_[np.ones(5), 2 * np.ones(6)]) == [5]


def test_noise_is_rarely_a_step():
    """At 0.05 a series of noise shows a step in about 5 of 100; at 0.01, which is usual, in one."""
    rng = np.random.default_rng(1)
    found = sum(bool(changepoints.find_steps(rng.normal(0, 1, 20), 0.05, 199)) for _ in range(200))

    assert found < 22  # the binomial's 99.9% bound


def test_the_statistic_is_cusums():
    rows = np.random.default_rng(2).normal(0, 1, (3, 9))

    at, size = changepoints._split(rows)

    for row, k, s in zip(rows, at, size, strict=True):
        naive = {
            j: abs(row[:j].mean() - row[j:].mean()) * (j * (9 - j) / 9) ** 0.5 for j in range(2, 8)
        }
        assert (k, s) == (max(naive, key=naive.get), pytest.approx(max(naive.values())))


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    """Twelve commits: a step at the seventh, another torch at the fourth."""
    root = tmp_path_factory.mktemp("past")
    for i in range(12):
        about = {
            "commit": {"id": f"{i:02d}" * 20, "dirty": i == 11},
            "recorded": f"2026-01-{i + 1:02d}T00:00:00Z",
        }
        about["versions"] = {"torch": "2.9" if i < 4 else "2.10", "cast-bench": str(i)}
        for seed in (0, 1):
            loss = 0.02 * (i >= 7) + 0.0005 * (i % 3)
            fake_records.perplexity(root, loss, seed=seed, made=i, provenance=about)
    return root


def test_history(past, output):
    rows = json.loads(output("history", "perplexity", "--results", past, "--json"))

    assert len(rows) == 12
    assert [r["commit"] for r in rows][-2:] == ["10" * 6, "11" * 6 + "*"]
    assert [i for i, r in enumerate(rows) if r["step"]] == [7]
    found = {i: r["surroundings"] for i, r in enumerate(rows) if r["surroundings"]}
    assert found == {4: "torch 2.9 to 2.10"}
    assert rows[7]["moved"].startswith("+1.9") or rows[7]["moved"].startswith("+2.0")
    assert rows[0]["seeds"] == 2


def test_history_compares_commits_of_the_same_seeds(tmp_path, output):
    for i, seeds in enumerate([(0,), (0, 1), (0,), (0, 1)]):
        about = {
            "commit": {"id": f"{i:02d}" * 20, "dirty": False},
            "recorded": f"2026-01-{i + 1:02d}T00:00:00Z",
        }
        for seed in seeds:
            fake_records.perplexity(
                tmp_path / "past", loss=0.3 * seed, seed=seed, made=i, provenance=about
            )

    out = output("history", "--results", tmp_path / "past", "--json")
    rows = json.loads(out)
    assert [(r["row"].partition(" (")[2], r["commit"][:2], r["moved"]) for r in rows] == [
        ("seed 0)", "00", ""), ("seed 0)", "02", "+0.00%"), ("seed 0, 1)", "01", ""),
        ("seed 0, 1)", "03", "+0.00%"),
    ]  # fmt: skip
