"""Lines of progress: when it ends is told at any width, and a long name is cut where one sees it."""

import io
import re
import time

import pytest
from rich.cells import cell_len

from bench.execution import bars, progress
from bench.execution.bars import Line, RichDisplay

NAME = "smollm2-135m-instruct-q4 sparsegpt + finetune:rank=8 2:4 int4-gptq, seed 0: perplexity"


def line(**changes):
    about = {"done": 30, "total": 300, "until": "14:02:11", "figures": ["loss 2.31", "1,234 tokens/s"]}
    return Line(NAME, **(about | {"since": time.monotonic() - 63.5} | changes))


@pytest.mark.parametrize("width", [*range(14, 60), 80, 120, 200])
def test_the_finish_time_is_told_at_any_width(width):
    text = line().compose(width).plain

    assert text.endswith("until 14:02:11") and cell_len(text) <= width


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_a_long_name_is_cut_in_the_middle(width):
    name = line().compose(width).plain.split("  ")[0]

    assert "…" in name and NAME.startswith(name.split("…")[0]) and NAME.endswith(name.split("…")[1])


def test_all_is_told_where_there_is_room():
    text = line().compose(200).plain

    assert text.startswith(NAME) and "30/300  0:01:03  loss 2.31  1,234 tokens/s  until" in text
    assert text.count("━") * 10 == text.count("━") + text.count("─") == bars.MAX_BAR


@pytest.mark.parametrize("state", ["importing", "loading", "first step"])
def test_a_state_stands_in_place_of_an_empty_bar(state):
    text = line(state=state, until="", figures=()).compose(80).plain

    assert text.endswith(f"perplexity  {state}  0:01:03") and "─" not in text and "/" not in text


LABEL = "tiny cast 2:4"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """shown(display's calls) -> the lines that are drawn."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    display = RichDisplay(Terminal())

    def run(**calls):
        for name, arguments in calls.items():
            getattr(display, name)(*arguments)
        console = display._live.console
        return ["".join(s.text for s in segments).rstrip() for segments in console.render_lines(display)]

    return run


def test_what_an_artifact_does_before_its_first_step(shown):
    display = {"begin": (8, 2), "artifact": (LABEL, False)}
    assert shown(**display)[1].startswith("tiny cast 2:4  importing")
    assert shown(enter=(LABEL, "", "loading"))[1].startswith("tiny cast 2:4  loading")
    assert shown(enter=(LABEL, "cast", "first step"))[1].startswith("tiny cast 2:4: cast  first step")
    first, second = shown(progress=(LABEL, "cast", 1, 20, {"loss": 2.5}, 3600.0))
    assert second.startswith("tiny cast 2:4: cast  ━") and "  1/20  " in second and "loss 2.5" in second
    assert re.search(r" 2/8 .* until \d\d:\d\d:\d\d$", first)
    assert " 3/8 " in shown(measurement=(LABEL, "perplexity", "ok", ""))[0]
    assert shown(artifact=("tiny wanda 2:4", True))[2].startswith("tiny wanda 2:4  waiting for another run")
    first, second = shown(leave=(LABEL,))
    assert second.startswith("tiny wanda 2:4  waiting for another run")
    shown(end=())


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress.display_for(Terminal()), progress.LogDisplay)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(progress.display_for(Terminal()), RichDisplay)
