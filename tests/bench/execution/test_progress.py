"""The lines of a run without a terminal."""

import io
import time

from bench.execution import progress
from bench.execution.listener import TimeLeft
from bench.execution.progress import LogDisplay
from bench.reporting.words import clock_time
from bench.results.record import ReadingRow
from helpers import fake_records, runs


def test_the_line_of_an_artifact_that_ended_says_when_all_is_done(monkeypatch):
    monkeypatch.setattr(progress, "clock_time", lambda seconds: f"now + {seconds:.0f} s")
    stream, running = io.StringIO(), runs.running("tiny wanda")
    display = LogDisplay(stream)
    display.begin(4, 2)
    display.start(running, TimeLeft())
    for event in (
        {"event": "progress", "phase": "pruning", "done": 1, "total": 9, "figures": {}},
        {"event": "measurement", "key": next(iter(running.by_key)), "status": "ok"},
    ):
        display.take(running, event, TimeLeft(run=3600.0))
    reading = ReadingRow(metric="perplexity", value=52.5, unit="1", better="lower")
    display.end(running, "", [fake_records.record("wanda", readings=[reading])])

    _, ended = stream.getvalue().splitlines()
    assert ended == "tiny wanda, 2:4: perplexity 52.5; 3/4, all done at now + 3600 s"


def test_a_finish_time_of_another_day_has_its_date(monkeypatch):
    evening = time.mktime((2026, 3, 1, 23, 0, 0, 0, 60, -1))
    monkeypatch.setattr(time, "time", lambda: evening)

    assert clock_time(3599) == "23:59:59"
    assert clock_time(3600) == "2026-03-02 00:00"


def test_a_log_has_the_numbers_of_each_row_as_it_ends():
    stream = io.StringIO()
    record = fake_records.record(
        "wanda", readings=[ReadingRow(metric="perplexity", value=52.5, unit="1", better="lower")]
    )
    LogDisplay(stream).end(runs.running("tiny wanda"), "", [record])

    assert stream.getvalue() == "tiny wanda, 2:4: perplexity 52.5\n"


def test_an_accuracy_has_the_name_of_its_task():
    reading = ReadingRow(metric="acc", value=0.375, unit="1", better="higher")
    record = fake_records.record(
        "wanda", measure="zeroshot", protocol="wiki_lastword@1.0", readings=[reading]
    )
    assert progress.describe_rows([record]) == ["acc wiki_lastword 0.375"]


def test_a_failure_of_an_artifact_is_printed_once():
    stream, running = io.StringIO(), runs.running("tiny wanda")
    display = LogDisplay(stream)
    display.start(running, TimeLeft())
    for key in running.by_key:
        for _ in range(2):
            event = {"event": "measurement", "key": key, "status": "failed", "reason": "broke"}
            display.take(running, event, TimeLeft())
    display.end(running, "", [fake_records.record("wanda", status="failed")])

    assert stream.getvalue().count("broke") == 1
    assert stream.getvalue().splitlines()[-1].endswith("failed (broke)")
