"""The table of metrics agrees with what measures report, and knows what to do with a metric that is not in it."""

import json
from pathlib import Path

import pytest

from bench.results import metrics, recount
from bench.results.metrics import METRICS, Metric, find
from bench.results.record import ReadingRow, parse

RESULTS = Path(__file__).parents[3] / "results"


def test_published_records_have_the_units_and_directions_of_the_table():
    seen = set()
    for path in RESULTS.glob("*/records/*.json"):
        content = path.read_bytes()
        fields = json.loads(content)
        measure = fields["identity"]["measure"]
        readings = [ReadingRow(**reading) for reading in fields["readings"]]
        if measure == "size":
            readings = recount.read(parse(content, str(path)))
        for reading in readings:
            if measure == "speed":  # times, speeds and their ratios are not in the table
                assert find(reading.metric, reading.unit).is_time or reading.unit == "1"
                continue
            known = METRICS[reading.metric]
            assert (reading.unit, reading.better) == (known.unit, known.better), (path, reading)
            assert known.low is None or reading.value >= known.low
            assert known.high is None or reading.value <= known.high
            seen.add(reading.metric)
    # Averages are made from records. No published task of lm-eval scores whole texts.
    in_no_record = {"mean_acc", "worst_drop", "mean_bits_per_byte", "corpus_bits_per_byte"}
    assert seen == METRICS.keys() - in_no_record


def test_an_unknown_metric_is_shown_sampled_and_not_judged():
    strange = find("strangeness", "1")

    assert strange == Metric("strangeness", "1") and find("strangeness").unit == find("strangeness").better == ""
    assert strange.in_tables and strange.sorts_rows and not strange.counted and strange.margin is None
    assert not strange.is_ratio and strange.label == "strangeness"


@pytest.mark.parametrize(
    ("name", "unit", "is_time", "is_ratio", "margin"),
    [
        ("latency", "s", True, True, 0.05),
        ("prefill", "us", True, True, 0.05),
        ("tokens_per_s", "tokens/s", True, True, 0.05),
        ("bytes_packed", "B", False, True, 0.005),
        ("perplexity", "1", False, True, 0.005),
        ("acc", "1", False, False, 0.01),
        ("kl", "nats/token", False, False, None),
    ],
)
def test_scale_and_margin(name, unit, is_time, is_ratio, margin):
    metric = find(name, unit)

    assert (metric.is_time, metric.is_ratio, metric.margin) == (is_time, is_ratio, margin)


def test_a_readings_unit_counts_where_it_differs():
    assert find("mean_acc", "%").unit == "%" and find("mean_acc", "%").better == "higher"


def test_columns_stand_in_the_order_of_the_table():
    names = ["strangeness", "nonzeros", "bytes_packed", "acc", "perplexity", "kl"]

    assert sorted(names, key=metrics.column_order) == [
        "perplexity", "kl", "acc", "bytes_packed", "strangeness", "nonzeros",
    ]  # fmt: skip
