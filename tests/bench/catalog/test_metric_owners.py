"""The metrics of a plug-in's measure: found, judged, computed again, ordered and shown as ours."""

import sys

import numpy as np
import pytest

from bench.catalog import metric_owners, registry
from bench.comparing.gate_settings import CompareSettings
from bench.comparing.result_arguments import read
from bench.comparing.verdict import compare
from bench.reporting import board
from bench.results import metrics
from bench.results.folder_check import check_folder
from bench.results.record import Item, ReadingRow
from helpers import fake_records, runs
from methods.contract.measure_info import Metric

SOURCE = """
from methods.contract.measure_info import MeasureInfo, Metric

class Calibration:
    info = MeasureInfo(
        metrics=(
            Metric("brier", "1", "lower", aggregation="mean", order=64, on_board=True, margin=0.01),
            Metric("ece", "1", "lower", aggregation="own", order=15, on_board=True, margin=0.02),
            Metric("acc", "1", "higher", margin=0.5),
        )
    )

    @staticmethod
    def derive(metric, record, items):
        return abs(float(items.columns["gap"].mean()))
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    names = {"calibration": "choices:Calibration"}
    folder = runs.distribution(tmp_path / "site", "choices", SOURCE, measures=names)
    runs.put_on_path(folder, monkeypatch)
    yield tmp_path
    monkeypatch.undo()
    runs.forget()


def put(folder, loss, ece=None):
    """Write a record of a plug-in's measure. loss: added to the Brier score of each of 400 items,
    and to each gap."""
    rng = np.random.default_rng(0)
    gaps = rng.normal(0.05, 0.02, 400) + loss
    brier = rng.uniform(0.1, 0.3, 400) + loss
    pairs = enumerate(zip(brier, gaps, strict=True))
    items = [Item(str(i), str(i), b, 1.0, {"gap": g}) for i, (b, g) in pairs]
    ece = abs(gaps.mean()) if ece is None else ece
    mean, stderr = float(brier.mean()), float(brier.std(ddof=1)) / 20
    known = {"unit": "1", "better": "lower", "n": 400}
    rows = [
        ReadingRow(metric="ece", value=ece, **known),
        ReadingRow(metric="brier", value=mean, stderr=stderr, **known),
    ]
    about = {"measure": "calibration", "protocol": "choices", "made": str(loss)}
    return fake_records.put(folder, fake_records.record(**about), items, rows)


def test_only_a_name_that_is_not_ours_imports_a_plug_in(site):
    assert metrics.find("perplexity").margin == 0.005 and "choices" not in sys.modules
    assert metrics.find("ece").margin == 0.02 and "choices" in sys.modules


def test_ours_keeps_its_name_and_the_other_one_is_named(site):
    assert metrics.find("acc").margin == 0.01
    ((measure, why),) = metric_owners.ignored(["perplexity", "calibration"])
    assert measure == "calibration"
    assert "its metric acc are ignored, because zeroshot has a metric of this name" in why


def test_a_metric_of_a_package_that_is_gone_has_the_defaults(site, monkeypatch):
    record = put(site / "r", 0.0)
    assert check_folder(site / "r").recomputed == 2
    monkeypatch.undo()
    runs.forget()
    checked = check_folder(site / "r")
    assert (checked.recomputed, checked.problems) == (0, ())
    assert metrics.find("ece", "1") == Metric("ece", "1")
    assert record.readings[0].better == "lower"


def test_a_check_computes_the_numbers_again_by_their_own_rules(site):
    put(site / "r", 0.0, ece=0.06)
    (problem,) = check_folder(site / "r").problems
    assert "ece is 0.06, but its items give 0.049" in problem


@pytest.mark.parametrize(
    ("loss", "verdict"), [(0.0, "OK"), (0.005, "OK"), (0.015, "REGRESSION"), (0.05, "REGRESSION")]
)
def test_a_gate_judges_each_by_its_own_margin(site, loss, verdict):
    """The margin of brier is 0.01, that of ece 0.02."""
    put(site / "a", 0.0)
    put(site / "b", loss)
    rows = compare(read(site / "a"), read(site / "b"), CompareSettings()).rows
    verdicts = {row.metric: row.verdict for row in rows}
    assert verdicts == {"brier": verdict, "ece": "OK" if loss < 0.02 else verdict}
    for row in rows:
        assert row.estimate is None or row.estimate.value == pytest.approx(loss, abs=1e-12)


def test_a_board_shows_them_in_the_order_that_they_declare(site):
    put(site / "r", 0.0)
    fake_records.perplexity(site / "r")
    columns = board.make_sections([read(site / "r")])[0].tables[0].columns
    assert [c.metric for c in columns if not c.hidden] == ["perplexity", "brier", "ece"]
    ordered = sorted(["kl", "ece", "brier", "perplexity"], key=metrics.column_order)
    assert ordered == ["perplexity", "ece", "kl", "brier"]


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ('Metric("m", aggregation="mode")', "aggregation of info"),
        ('Metric("m", better="smaller")', "better of info"),
        ('Metric("m", aggregation="own")', "no static method"),
    ],
)
def test_facts_that_cannot_be_used_are_a_sentence(tmp_path, monkeypatch, facts, why):
    source = "from methods.contract.measure_info import MeasureInfo, Metric\n"
    source += f"class Wrong:\n    info = MeasureInfo(metrics=({facts},))\n"
    site = runs.distribution(tmp_path, "wrongs", source, measures={"wrong": "wrongs:Wrong"})
    runs.put_on_path(site, monkeypatch)
    assert why in registry.entries("measures")["wrong"].broken and metrics.find("m") == Metric("m")
    monkeypatch.undo()
    runs.forget()
