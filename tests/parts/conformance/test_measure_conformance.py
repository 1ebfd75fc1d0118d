"""bench conformance of a measure, and its column."""

import dataclasses
import json

import pytest

from bench.comparing.result_arguments import read
from bench.parts.conformance import checks, measures
from bench.results.record import ReadingRow
from helpers import fake_records, plugins, runs
from methods.contract.measure_info import MeasureInfo, Metric

READS = {
    "norm": (
        'return Readings((Reading("norm", max(float(p.norm()) for p in model().parameters()), '
        '"1", "lower"),))'
    ),
    "draws": 'return Readings((Reading("drawn", random.SystemRandom().random(), "", "lower"),))',
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    shown = {
        "norm": (
            'info: ClassVar[MeasureInfo] = MeasureInfo(metrics=(Metric("norm", "1", "lower", '
            "on_board=True),))"
        )
    }
    return plugins.install(
        tmp_path_factory.mktemp("norms"), "measured_norms", READS, shown, kind="measures"
    )


def states(name):
    """Return the detail of each failed check. The measure runs in this process."""

    def run(spec):
        runs.run_here(spec)
        return read(spec.results).records

    return {
        row["check"]: row["detail"] for row in measures.rows(name, run) if row["state"] == "failed"
    }


@pytest.mark.usefixtures("world")
def test_a_measure_that_conforms_and_one_that_does_not():
    assert states("norm") == {}
    found = states("draws")
    assert set(found) == {"gives the same twice", "says what its numbers are", "has a column"}
    assert "two runs differ" in found["gives the same twice"]
    assert "no unit" in found["says what its numbers are"]


@pytest.mark.full
@pytest.mark.usefixtures("world")
def test_the_command(output):
    out = output("conformance", "norm", "--json")
    assert {row["state"] for row in json.loads(out)} == {"ok"}


def test_checks_that_no_run_reaches(tmp_path):
    row = ReadingRow(metric="m", value=1.0, unit="1", better="lower")
    record = fake_records.put(
        tmp_path, fake_records.record(measure="mine", protocol="p"), readings=[row]
    )
    kind = type("Kind", (), {"info": MeasureInfo(metrics=(Metric("m", on_board=True),))})
    trial = measures.Trial("mine", kind, [record], [record], ("a number is not that of its items",))
    for check in (measures.declares_itself, measures.says_what_its_numbers_are):
        with pytest.raises(checks.NotConformant):
            check(trial)
    other = fake_records.record(method="other", measure="mine", protocol="q")
    other.readings = [row]
    with pytest.raises(checks.NotConformant, match="share no column"):
        measures.has_a_column(dataclasses.replace(trial, first=[record, other]))
    failed = fake_records.record(measure="mine", status="failed", reason="OOM")
    for first, sentence in (([], "planned no measurement"), ([failed], "has failed on wanda: OOM")):
        with pytest.raises(checks.NotConformant, match=sentence):
            measures.reads_a_dense_and_a_pruned_model(dataclasses.replace(trial, first=first))


def test_a_check_that_raises_is_a_failed_row():
    def looks_for_a_record(trial):
        raise KeyError("no such record")

    row = checks.row(looks_for_a_record, None)
    assert row == {"check": "looks for a record", "state": "failed",
                   "detail": "KeyError: 'no such record'"}  # fmt: skip
