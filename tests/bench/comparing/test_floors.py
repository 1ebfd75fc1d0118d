"""Tasks at the floor are no evidence of a change."""

import pytest

from bench.comparing.floors import Floors
from bench.comparing.pairing import MetricPair
from bench.results.identity import Protocol
from bench.results.record import ReadingRow
from helpers import fake_records
from helpers.verdicts import verdict

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("guess", "change", "expected"),
    [
        (0.5, {"lost": 300}, "INCONCLUSIVE"),
        (0.5, {"lost": 1, "gained": 1}, "INCONCLUSIVE"),
        (0.5, {"gained": 300}, "IMPROVED"),
        (0.3, {"lost": 300}, "REGRESSION"),
    ],
)
def test_a_task_that_both_sides_guess(roots, guess, change, expected):
    about = {"notes": {"chance": guess, "majority": 0.1}}
    fake_records.accuracy(roots[0], **about)
    fake_records.accuracy(roots[1], made="b", **change, **about)
    row = verdict(roots)["acc"]
    assert row.verdict == expected
    assert bool(row.reason) == (expected == "INCONCLUSIVE")


def test_a_task_that_the_dense_model_guesses(roots):
    """The dense row itself has one key on both sides, and only has to be reproduced."""
    about = {"notes": {"chance": 0.5, "majority": 0.1}}
    for root in roots:
        fake_records.accuracy(root, method="dense", **about)
    fake_records.accuracy(roots[0], gained=300, **about)
    fake_records.accuracy(roots[1], made="b", lost=300, **about)
    found = verdict(roots, by="name")
    assert sorted(row.verdict for row in found.values()) == ["INCONCLUSIVE", "OK"]
    (said,) = (row.reason for row in found.values() if row.verdict == "INCONCLUSIVE")
    assert said == (
        "piqa@1.0 is no evidence: the dense model is at the floor, with acc 0.5 of 1,000 questions "
        "and a floor of 0.5"
    )


@pytest.mark.parametrize(("gain", "is_evidence"), [(0.02, True), (0.01, False)])
def test_bits_follow_the_gain_of_their_record(gain, is_evidence):
    """Bits of an answer that the model does not find in the input are no evidence."""
    record = fake_records.record(measure="ruler")
    asked = Protocol(name="ruler/vt", version="1")
    record.identity = record.identity.model_copy(update={"protocol": asked})
    of_bits = {"unit": "bits/byte", "stderr": 0.007, "n": 9}
    record.readings = [
        ReadingRow(metric="ruler_bits", value=1.0, better="lower", **of_bits),
        ReadingRow(metric="ruler_gain", value=gain, better="higher", **of_bits),
    ]
    pair = MetricPair("", "ruler_bits", (record,), (record,))
    assert (Floors(()).describe(pair) == "") == is_evidence
