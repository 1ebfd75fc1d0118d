"""Lines of progress: when it ends is told at any width, and a long name is cut where one sees
it."""

import io
import re
import time

import pytest
from rich.cells import cell_len

from bench.execution import bars, progress
from bench.execution.bars import Line, RichDisplay
from bench.execution.listener import TimeLeft
from bench.results.record import ReadingRow
from helpers import fake_records, runs

NAME = "smollm2-135m-instruct-q4 sparsegpt + finetune:rank=8 2:4 int4-gptq, seed 0: perplexity"


def line(**changes):
    about = {"done": 30, "total": 300, "until": "14:02:11", "since": time.monotonic() - 63.5}
    about["figures"] = ["loss 2.31", "1,234 tokens/s"]
    return Line(NAME, **(about | changes))


@pytest.mark.parametrize("width", [14, 30, 59, 120])
def test_the_finish_time_is_told_at_any_width(width):
    text = line().compose(width).plain

    assert text.endswith("until 14:02:11") and cell_len(text) <= width


@pytest.mark.parametrize("width", [30, 120])
def test_a_long_name_is_cut_in_the_middle(width):
    name = line().compose(width).plain.split("  ")[0]

    assert "…" in name and NAME.startswith(name.split("…")[0]) and NAME.endswith(name.split("…")[1])


def test_all_is_told_where_there_is_room():
    text = line().compose(200).plain

    figures = "30/300  0:01:0[3-9]  loss 2.31  1,234 tokens/s  until"
    assert text.startswith(NAME) and re.search(figures, text)
    assert text.count("━") * 10 == text.count("━") + text.count("─") == bars.MAX_BAR


LABEL = "tiny cast 2:4"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


NOON = time.mktime((2026, 3, 2, 12, 0, 0, 0, 0, -1))


@pytest.fixture
def display(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: NOON)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    made = RichDisplay(Terminal())
    made.begin(8, 2)
    yield made
    made.close()


def drawn(display):
    lines = display._live.console.render_lines(display)
    return ["".join(segment.text for segment in line).rstrip() for line in lines]


def test_a_line_follows_its_artifact(display):
    cast, wanda = runs.running(LABEL), runs.running("tiny wanda 2:4", "b")
    display.start(cast, TimeLeft())
    assert drawn(display)[1].startswith("tiny cast 2:4  importing")
    display.take(cast, {"event": "imported"}, TimeLeft())
    assert drawn(display)[1].startswith("tiny cast 2:4  loading")
    display.take(cast, {"event": "state", "phase": "cast", "state": "first step"}, TimeLeft())
    assert drawn(display)[1].startswith("tiny cast 2:4: cast  first step")
    display.take(cast, runs.progress("cast", 1, 20, loss=2.5), TimeLeft(run=3600.0))
    first, second = drawn(display)
    assert second.startswith("tiny cast 2:4: cast  ━")
    assert "  1/20  " in second and "loss 2.5" in second
    assert " 2/8 " in first and first.endswith(" until 13:00:00")
    display.take(cast, {"event": "measurement", "key": "perplexity", "status": "ok"}, TimeLeft())
    assert " 3/8 " in drawn(display)[0]
    wanda.waits = True
    display.start(wanda, TimeLeft())
    assert drawn(display)[2].startswith("tiny wanda 2:4  waiting for another run")
    display.end(cast, "", None)
    assert drawn(display)[1].startswith("tiny wanda 2:4  waiting for another run")


def test_rows_appear_in_the_table_as_their_artifacts_end(display):
    cast = runs.running(LABEL)
    display.start(cast, TimeLeft())
    reading = ReadingRow(metric="perplexity", value=52.5, unit="1", better="lower")
    display.end(cast, "", [fake_records.record("cast", readings=[reading])])
    head, row, bar = drawn(display)

    assert head.startswith("method") and bar.startswith("measurements")
    assert row.startswith("cast") and "2:4" in row


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress.display_for(Terminal()), progress.LogDisplay)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(progress.display_for(Terminal()), RichDisplay)
