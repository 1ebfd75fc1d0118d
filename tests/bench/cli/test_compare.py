"""bench compare and bench history: what they find, and what they say where there is nothing."""

import json
import shutil

import numpy as np
import pytest

from bench.compare import result_arguments
from bench.compare.pairing import group_by_identity
from bench.reporting import figures
from bench.stats import changepoints
from helpers import fake_records, runs
from methods.contract.errors import UserError

pytestmark = pytest.mark.usefixtures("cache", "in_tmp_path")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    for seed in (0, 1, 2):
        fake_records.perplexity(root, 0.0, 0.01, method="wanda", seed=seed, noise=seed + 1)
        if seed < 2:
            fake_records.perplexity(
                root, -0.05, 0.01, method="sparsegpt", seed=seed, noise=seed + 5
            )
    fake_records.perplexity(root, 0.2, 0.01, method="magnitude", noise=9)
    fake_records.accuracy(root, 60, 10, method="magnitude")
    return root


@pytest.fixture
def results(made, tmp_path):
    """wanda, sparsegpt and magnitude, for a test to change."""
    return shutil.copytree(made, tmp_path / "results")


def compare(cli, results, *args):
    code, out, err = cli("compare", *args, "--results", results, "--json")
    return code, json.loads(out) if code == 0 else None, err


@pytest.mark.parametrize("name", ["permute + wanda", "wanda:from=permute"])
def test_a_chain_is_named_by_its_stages_or_as_it_was_typed(name, results, cli):
    fake_records.perplexity(
        results, -0.1, 0.01, method="permute + wanda:from=permute", seed=0, noise=3
    )

    code, printed, _ = compare(cli, results, "wanda", name)

    assert code == 0 and printed["rows"][0]["value"] == pytest.approx(np.exp(-0.1), rel=1e-3)


@pytest.fixture
def two_patterns(tmp_path):
    """Two methods at 2:4 and 6:8, on one seed, and the dense model."""
    root = tmp_path / "two patterns"
    for method, change in (("wanda", 0.0), ("sparsegpt", -0.05)):
        for pattern, loss in (("2:4", 0.3), ("6:8", 0.1)):
            identity = {"pattern": pattern, "calibration": f"c4@{len(method)}x8"}
            about = {"method": method, "seed": 0, "identity": identity}
            fake_records.perplexity(root, loss + change, 0.01, noise=len(method), **about)
            fake_records.accuracy(root, round(1000 * (loss + change)), **about)
    fake_records.perplexity(root, method="dense")
    return root


def test_methods_meet_pattern_by_pattern(two_patterns, cli):
    """The calibration of both has one value, and may differ."""
    _, printed, _ = compare(cli, two_patterns, "wanda", "sparsegpt")

    values = {r["row"]: r["value"] for r in printed["rows"] if r["metric"] == "perplexity"}
    assert list(values) == ["tiny 2:4 wiki-mini@128", "tiny 6:8 wiki-mini@128"]
    assert list(values.values()) == pytest.approx([np.exp(-0.05)] * 2, rel=1e-3)
    lost = [r["value"] for r in printed["rows"] if r["metric"] == "acc"]
    assert lost == pytest.approx([0.05, 0.05])


def test_patterns_of_one_method_alone_are_missing_and_of_one_pair_are_in_its_name(
    two_patterns, cli
):
    fake_records.perplexity(two_patterns, method="ria", seed=0)
    _, printed, _ = compare(cli, two_patterns, "wanda", "ria")
    verdicts = {(r["row"].split()[1], r["metric"]): r["verdict"] for r in printed["rows"]}
    assert verdicts["2:4", "perplexity"] == "IMPROVED"
    assert verdicts["6:8", "perplexity"] == "MISSING"

    _, printed, _ = compare(cli, two_patterns, "dense", "ria")
    (row,) = printed["rows"]
    assert row["row"] == "tiny wiki-mini@128 (dense → 2:4)"


def test_patterns_that_do_not_meet_are_refused(two_patterns, cli):
    fake_records.perplexity(two_patterns, method="dense", identity={"quantizer": "int8"})
    code, _, err = compare(cli, two_patterns, "dense", "wanda")

    assert code == 2 and len(err.splitlines()) == 1
    assert "one of 'wanda': pattern dense against 2:4, 6:8: " in err and "bench ls runs" in err


def test_no_record_is_dropped_without_a_word(two_patterns):
    found = result_arguments.read(two_patterns)

    with pytest.raises(UserError, match=r"pattern 2:4 and 6:8|pattern 6:8 and 2:4"):
        group_by_identity([r for r in found.records if r.identity.method == "wanda"], ("pattern",))


def test_methods_meet_on_the_seeds_they_share(results, tmp_path, cli):
    """Also beside a folder that is called as a method is."""
    (tmp_path / "wanda").mkdir()
    _, printed, _ = compare(cli, results, "wanda", "sparsegpt")

    (row,) = printed["rows"]
    assert (row["verdict"], row["mark"], row["seeds"], row["n"]) == ("IMPROVED", "+", 2, 30)
    assert row["value"] == pytest.approx(np.exp(-0.05), rel=1e-3)
    assert row["low"] < row["value"] < row["high"] < 1


def test_commits_of_one_folder(results, cli):
    about = {"commit": {"id": "d" * 40, "dirty": False}, "recorded": "2026-02-01T00:00:00Z"}
    fake_records.accuracy(results, 90, 10, method="magnitude", made="b", provenance=about)

    _, printed, _ = compare(cli, results, "cccc", "dddd")

    (row,) = [r for r in printed["rows"] if r["metric"] == "acc"]
    assert row["before"] == pytest.approx(0.45) and row["after"] == pytest.approx(0.42)


def test_artifacts_by_a_record(results, cli):
    found = runs.records(results)
    a, b = (found["wanda", s, "perplexity"].key[:12] for s in (0, 1))

    _, printed, _ = compare(cli, results, a, b)

    (row,) = printed["rows"]
    assert row["records"] == [found["wanda", 1, "perplexity"].key[:32]]
    assert row["before"] == found["wanda", 0, "perplexity"].readings[0].value


def test_quiet_metrics_stay_out(results, cli):
    for method in ("wanda", "magnitude"):
        fake_records.counted(results, "negative_zeros", 5.0, method=method)

    _, printed, _ = compare(cli, results, "wanda", "magnitude")

    assert printed["unjudged"] == ["negative_zeros"]


def test_two_commits_with_one_beginning(results, cli):
    about = {"commit": {"id": "c" * 8 + "d" * 32, "dirty": False}}
    fake_records.accuracy(results, method="x", provenance=about)

    code, _, err = compare(cli, results, "cccc", "wanda")

    assert code == 2 and "2 commits begin with 'cccc'" in err


# history


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
            fake_records.perplexity(
                root, loss, seed=seed, made=i, provenance=about, method="$_{x}$"
            )
    return root


def test_history(past, cli, tmp_path):
    figure = tmp_path / "f.svg"
    args = ("history", "perplexity", "--results", past, "--json", "--out", figure)
    code, out, _ = cli(*args)

    rows = json.loads(out)
    assert code == 0 and len(rows) == 12
    assert [r["commit"] for r in rows][-2:] == ["10" * 6, "11" * 6 + "*"]
    assert [i for i, r in enumerate(rows) if r["step"]] == [7]
    found = {i: r["surroundings"] for i, r in enumerate(rows) if r["surroundings"]}
    assert found == {4: "torch 2.9 to 2.10"}
    assert rows[7]["moved"].startswith("+1.9") or rows[7]["moved"].startswith("+2.0")
    assert rows[0]["seeds"] == 2
    drawn = figure.read_bytes()
    cli(*args)
    assert figure.read_bytes() == drawn and b"<svg" in drawn


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


@pytest.mark.parametrize(
    "values", [[53.2855271, 53.2855294], [0.0, 0.0], [45.7, 51.6], [-1.0, -1.0]]
)
def test_a_figure_makes_no_step_of_the_last_digits(values):
    low, high = figures._axis_limits(values)
    assert low < min(values) and max(values) < high
    assert high - low >= 0.02 * abs(values[0])
