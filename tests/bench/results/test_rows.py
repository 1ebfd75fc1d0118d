"""Which record of an identity counts, and the numbers of a frame."""

import pytest

from bench.results.record import Record
from bench.results.rows import newest, to_frame
from helpers import fake_records


def record(name, commit, recorded, status="ok"):
    """commit, recorded: days; 0 if the commit's time is unknown."""
    about = {"id": name, "time": f"2026-01-0{commit}T00:00:00Z"} if commit else {"id": None}
    provenance = {"commit": about, "recorded": f"2026-01-0{recorded}T00:00:00Z"}
    identity = fake_records.identity_of(model="m", method="dense")
    return Record(key=name * 32, identity=identity, status=status, provenance=provenance)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("counts", "other"),
    [
        ((2, 2), (1, 3)),  # after a clock went back, the later commit
        ((1, 3), (1, 2)),  # of one commit, the last
        ((0, 3), (4, 2)),  # where a commit's time is unknown, the last
        ((0, 1), (0, 2, "failed")),  # a good one before one that failed or was skipped
        ((0, 1), (0, 2, "skipped")),
    ],
)
def test_which_record_counts(counts, other, reverse):
    one, two = record("ab", *counts), record("cd", *other)
    assert newest([two, one] if reverse else [one, two]) == [one]


def test_the_last_counts_where_it_need_not_be_good():
    good, failed = record("ab", 0, 1), record("cd", 0, 2, "failed")
    assert newest([good, failed], good_first=False) == [failed]


def test_a_large_seed_keeps_its_digits_beside_a_row_without_one():
    largest = 2**63 - 1
    frame = to_frame([fake_records.record(seed=largest), fake_records.record(seed=None)])
    assert frame["seed"][0] == largest and frame["seed"].isna()[1]
