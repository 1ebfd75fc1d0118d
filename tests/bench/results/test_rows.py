"""Which record of an identity counts."""

import pytest

from bench.results.record import Record
from bench.results.rows import newest
from helpers import fake_records


def record(name, commit="", recorded="", **fields):
    identity = fake_records.identity_of(model="m", method="dense")
    provenance = {"commit": {"id": name, "time": commit} if commit else {"id": None}, "recorded": recorded}
    return Record(key=name * 32, identity=identity, **({"status": "ok", "provenance": provenance} | fields))


@pytest.mark.parametrize("reverse", [False, True])
def test_after_a_clock_went_back_the_later_commit_counts(reverse):
    old = record("ab", commit="2026-01-01T00:00:00Z", recorded="2026-01-03T00:00:00Z")
    new = record("cd", commit="2026-01-02T00:00:00Z", recorded="2026-01-02T12:00:00Z")

    assert newest([new, old] if reverse else [old, new]) == [new]


def test_of_one_commit_the_last_counts():
    commit = "2026-01-01T00:00:00Z"
    one = record("ab", commit=commit, recorded="2026-01-03T00:00:00Z")
    two = record("cd", commit=commit, recorded="2026-01-02T00:00:00Z")

    assert newest([one, two]) == [one]


def test_where_a_commit_s_time_is_unknown_the_last_counts():
    old = record("ab", recorded="2026-01-03T00:00:00Z")
    new = record("cd", commit="2026-01-04T00:00:00Z", recorded="2026-01-02T00:00:00Z")

    assert newest([old, new]) == [old]


def test_a_good_one_counts_before_a_failed_one():
    good = record("ab", recorded="2026-01-01T00:00:00Z")
    failed = record("cd", recorded="2026-01-02T00:00:00Z", status="failed")

    assert newest([good, failed]) == [good]
    assert newest([good, failed], good_first=False) == [failed]


def test_a_skipped_record_hides_no_number():
    """For example, of a merged machine without the device."""
    good = fake_records.record(made="a", provenance={"recorded": "2026-01-01T00:00:00Z"})
    skipped = fake_records.record(made="b", status="skipped", provenance={"recorded": "2026-01-02T00:00:00Z"})

    assert newest([good, skipped]) == [good]
