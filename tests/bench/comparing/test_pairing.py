"""Records without a pair, and pairs that cannot be compared: the verdict on each, and its
reason."""

import shutil

import pytest

from bench.comparing import gate_settings, pairing
from bench.comparing.result_arguments import read
from bench.comparing.verdict import compare
from bench.results.record import Item, ReadingRow
from helpers import fake_records
from helpers.verdicts import verdict

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parts("speed")
@pytest.mark.parametrize(
    ("excepted", "failed"), [((), {"prefill", "perplexity"}), (("latency",), {"perplexity"})]
)
def test_what_cannot_be_compared_fails_unless_it_is_excepted(roots, excepted, failed):
    fake_records.latency(roots[0])
    fake_records.latency(roots[1], 3.0, made="b", cpu="Xeon")
    fake_records.perplexity(roots[0])
    fake_records.perplexity(roots[1], made="b", token_digest="u")

    found = compare(*(read(r) for r in roots), gate_settings.read(None, not_comparable=excepted))

    reasons = {r.metric: r.reason for r in found.rows if r.verdict == "NOT_COMPARABLE"}
    assert reasons.keys() == {"prefill", "perplexity"}
    assert reasons["perplexity"] == "measured on different tokens"
    assert "EPYC" in reasons["prefill"] and "Xeon" in reasons["prefill"]
    assert {r.metric for r in found.failed} == failed


def test_another_protocol_is_not_comparable_and_another_corpus_is_missing(roots):
    fake_records.perplexity(roots[0], protocol="wiki-mini@128")
    fake_records.perplexity(roots[1], protocol="wiki-mini@256")
    assert verdict(roots)["perplexity"].verdict == "NOT_COMPARABLE"
    shutil.rmtree(roots[1])
    fake_records.perplexity(roots[1], protocol="c4@128")
    assert verdict(roots)["perplexity"].verdict == "MISSING"


def test_a_new_failure_fails_and_an_old_one_fixed_is_shown(roots):
    before, after = roots
    fake_records.perplexity(before, method="wanda")
    fake_records.failed(after, method="wanda", made="b")
    fake_records.failed(before, method="sparsegpt", made="b")
    fake_records.perplexity(after, method="sparsegpt")
    fake_records.failed(before, method="magnitude")
    fake_records.failed(after, method="magnitude")
    fake_records.failed(after, method="cast")
    fake_records.put(before, fake_records.record("ria", status="skipped", reason="no CUDA device"))
    fake_records.failed(after, method="ria", made="b")

    found = compare(*(read(r) for r in roots), gate_settings.read(None))

    got = {r.name.split()[1]: (r.verdict, r.reason) for r in found.rows}
    assert got == {
        "wanda": ("NEW_FAILURE", "OOM"),
        "cast": ("NEW_FAILURE", "OOM"),
        "ria": ("NEW_FAILURE", "OOM"),
        "sparsegpt": ("FIXED", "failed before"),
        "magnitude": ("NO_BASELINE", "failed before, too"),
    }
    assert {r.verdict for r in found.failed} == {"NEW_FAILURE"}


def test_a_number_of_older_code_does_not_hide_that_todays_fails(roots):
    """A results folder that is kept from run to run has both."""
    for root in roots:
        fake_records.perplexity(root)
    fake_records.failed(roots[1], made="b", provenance={"recorded": "2026-01-02T00:00:00Z"})
    assert verdict(roots)["perplexity"].verdict == "NEW_FAILURE"
    fake_records.perplexity(roots[1], made="c", provenance={"recorded": "2026-01-03T00:00:00Z"})
    assert verdict(roots)["perplexity"].verdict == "OK"


@pytest.mark.parametrize(
    ("before", "now", "failing", "reason"),
    [
        ((0, 1), (0,), (), "not measured (seed 1)"),
        ((0, 1), (0,), (1,), "NaN (seed 1)"),
        ((0,), (0,), (1,), "NaN (seed 1)"),
        ((None,), (), (0, 1), "NaN (seed 0, 1)"),
    ],
    ids=["missing", "one of several", "a new one", "named once"],
)
def test_a_seed_that_is_missing_or_fails_is_named(roots, before, now, failing, reason):
    for root, seeds in zip(roots, (before, now), strict=True):
        for seed in seeds:
            fake_records.perplexity(root, seed=seed)
    for seed in failing:
        fake_records.failed(roots[1], seed=seed, reason="NaN")
    row = verdict(roots)["perplexity"]
    assert (row.verdict, row.reason) == ("NEW_FAILURE" if failing else "MISSING", reason)


def test_a_seed_that_failed_before_fails_nothing_and_the_others_are_compared(roots):
    for root, cost in zip(roots, (0, 1), strict=True):
        fake_records.perplexity(root, cost, seed=0)
        fake_records.failed(root, seed=1, reason="NaN")
    rows = compare(*(read(r) for r in roots), gate_settings.read(None)).rows
    assert [(r.verdict, r.reason) for r in rows if r.verdict == "NO_BASELINE"] == [
        ("NO_BASELINE", "failed before, too (seed 1)")
    ]
    assert [r.verdict for r in rows if r.verdict != "NO_BASELINE"] == ["REGRESSION"]


@pytest.mark.parametrize(
    ("make", "reason"), [("perplexity", "the weights of tiny"), ("answers", "the task's questions")]
)
def test_one_name_for_two_contents_is_not_compared(make, reason, roots):
    for root, digest in zip(roots, ("1" * 64, "2" * 64), strict=True):
        asked = {"measure": {"content": digest}}
        inputs = {"model": digest} if make == "perplexity" else asked
        getattr(fake_records, make)(root, key_inputs=inputs)
    found = {(r.verdict, r.reason) for r in verdict(roots).values()}
    assert found == {("NOT_COMPARABLE", f"{reason} are others")}


def test_a_timing_that_is_no_longer_reported_is_missing(roots):
    for root, kept in zip(roots, (2, 1), strict=True):
        times = [
            ReadingRow(metric=name, value=1.0, unit="s", better="lower")
            for name in ("latency", "decode")
        ]
        items = [Item(str(i), str(i), 1.0, 1.0) for i in range(12)]
        about = {"measure": "latency", "protocol": "512", "token_digest": "", "made": str(kept)}
        fake_records.put(root, fake_records.record(**about), items, times[-kept:])
    assert verdict(roots)["latency"].verdict == "MISSING"


TEXT = {"data": "wiki-mini", "content": "c" * 12}


@pytest.mark.parametrize(
    ("before", "after", "seeds", "expected"),
    [
        ({"calibration": TEXT}, {"calibration": TEXT}, (0, 1), True),
        ({"training": TEXT}, {"training": TEXT}, (0, 1), True),
        ({"calibration": TEXT}, {"calibration": TEXT}, (0,), False),
        ({"calibration": TEXT}, {"calibration": TEXT}, (None, None), False),
        ({"calibration": TEXT}, {"calibration": TEXT | {"content": "d" * 12}}, (0, 1), False),
        ({"calibration": TEXT}, {"calibration": TEXT, "training": TEXT}, (0, 1), False),
        ({"calibration": {"data": "c4"}}, {"calibration": {"data": "c4"}}, (0, 1), False),
        ({}, {}, (0, 1), False),
    ],
)
def test_draws_are_the_same_if_seeds_and_digests_of_text_are_equal(before, after, seeds, expected):
    sides = [
        tuple(fake_records.record(seed=seed, key_inputs=inputs) for seed in seeds)
        for inputs in (before, after)
    ]
    assert pairing.MetricPair("", "perplexity", *sides).same_draws == expected
