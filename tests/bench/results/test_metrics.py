"""The metrics that measures declare agree with what they report, and an undeclared metric has the
defaults."""

import json
from pathlib import Path

from bench.catalog import metric_owners
from bench.results import metrics, recount
from bench.results.metrics import find
from bench.results.record import ReadingRow, parse
from methods.contract.measure_info import Metric

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
            owned = metric_owners.built_in().get(reading.metric)
            if measure == "speed" and owned is None:  # of engines, which time other steps, too
                assert find(reading.metric, reading.unit).is_time or reading.unit == "1"
                continue
            known = owned.metric
            assert (reading.unit, reading.better) == (known.unit, known.better), (path, reading)
            assert known.low is None or reading.value >= known.low
            assert known.high is None or reading.value <= known.high
            seen.add(reading.metric)
    owners = metric_owners.built_in()
    declared = {name for name, owned in owners.items() if owned.metric.in_records}
    # No published task of lm-eval scores whole texts, and no published record has a time of a CUDA
    # device.
    of_cuda = {"latency", "latency_dense", "linears", "linears_dense"}
    # No published row has own answers, or one of these long tasks, yet.
    unpublished = ("continuation", "own_answers", "written", "bfcl", "ifbench")
    of_others = {name for name, owned in owners.items() if owned.measure in unpublished}
    # The long tasks are scored in one pass, and no answer is written.
    of_others |= {"ruler_score"}
    assert seen == declared - of_cuda - of_others - {"corpus_bits_per_byte"}


def test_an_unknown_metric_is_shown_sampled_and_not_judged():
    strange = find("strangeness", "1")
    assert strange == Metric("strangeness", "1")
    assert find("strangeness").unit == find("strangeness").better == ""
    assert (
        strange.in_tables and strange.sorts_rows and not strange.counted and strange.margin is None
    )
    assert not strange.is_ratio and strange.label == "strangeness"


def test_a_readings_unit_counts_where_it_differs():
    assert find("mean_acc", "%").unit == "%" and find("mean_acc", "%").better == "higher"


def test_columns_are_in_the_order_that_metrics_declare():
    names = ["strangeness", "bytes_packed", "acc", "perplexity", "kl"]
    ordered = ["perplexity", "kl", "acc", "bytes_packed", "strangeness"]
    assert sorted(names, key=metrics.column_order) == ordered
    assert metrics.column_order("nonzeros") == metrics.column_order("strangeness")
    assert metrics.by_quality(names) == ["perplexity", "acc", "kl"]
