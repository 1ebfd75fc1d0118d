"""bench compare: what it finds, and what it says where there is nothing."""

import json
import shutil

import numpy as np
import pytest

from bench.comparing import result_arguments
from bench.comparing.pairing import group_by_identity
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


def test_a_folder_against_itself(results, cli):
    code, out, _ = cli("compare", results, results)
    assert code == 0 and "nothing differs" in out
