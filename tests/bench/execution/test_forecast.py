"""The finish time follows what this run has seen, not only the plan."""

import io
import re
import time

import pytest

from bench.execution.forecast import MIN_SECONDS, Forecast, Pace
from bench.execution.progress import LogDisplay


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_the_plan_is_believed_until_an_artifact_has_ended(clock):
    forecast = Forecast({"a": 5.0, "b": 10.0}, are_seconds=True, clock=clock)
    assert forecast.seconds_left() == 15.0

    forecast.start("a")
    clock.now += 2.0
    assert forecast.seconds_left() == 13.0


def test_nothing_is_promised_by_a_plan_without_seconds(clock):
    forecast = Forecast({"a": 1.0, "b": 1.0}, are_seconds=False, clock=clock)
    assert forecast.seconds_left() is None
    forecast.start("a")
    clock.now += 2.0
    forecast.advance("a", 3.0)
    assert forecast.seconds_left() is None, "a phase of five seconds says little"

    forecast.advance("a", MIN_SECONDS)
    assert forecast.seconds_left() == MIN_SECONDS + (MIN_SECONDS + 2.0), "the other one takes as long"


def test_what_is_left_is_scaled_by_what_was_seen(clock):
    forecast = Forecast({"a": 5.0, "b": 10.0, "c": 20.0}, are_seconds=True, clock=clock)
    forecast.start("a")
    clock.now += 15.0  # three times the estimate
    forecast.end("a")
    assert forecast.seconds_left() == 90.0

    forecast.start("b")
    clock.now += 15.0  # one and a half times: two in all
    forecast.end("b")
    assert forecast.seconds_left() == 40.0


def test_the_import_of_the_first_is_not_counted_for_the_others(clock):
    forecast = Forecast({"a": 5.0, "b": 5.0, "c": 5.0}, are_seconds=True, clock=clock)
    forecast.start("a")
    clock.now += 60.0  # imports
    forecast.start("a")
    clock.now += 5.0
    forecast.end("a")

    assert forecast.seconds_left() == 10.0


def test_an_artifact_that_takes_longer_moves_the_finish_time_while_it_runs(clock):
    forecast = Forecast({"a": 5.0, "b": 10.0}, are_seconds=True, clock=clock)
    forecast.start("a")
    clock.now += 10.0
    forecast.advance("a", 20.0)

    assert forecast.seconds_left() == 20.0 + 10.0 * 6


def test_an_artifact_that_another_run_holds_or_has_measured_says_nothing(clock):
    forecast = Forecast({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, are_seconds=True, clock=clock)
    forecast.start("a")
    clock.now += 2.0
    forecast.end("a")
    forecast.start("b")
    clock.now += 50.0  # asked for b, which is busy
    forecast.leave("b")
    assert forecast.seconds_left() == 6.0

    forecast.start("c")
    forecast.end("c", measured=False)
    assert forecast.seconds_left() == 4.0


def test_the_pace_of_a_phase_is_counted_from_where_it_went_on(clock):
    pace = Pace(clock)
    assert pace.advance("cast", 800, 1000) is None
    clock.now += 20
    assert pace.advance("cast", 900, 1000) == 20.0
    assert pace.advance("perplexity", 1, 4) is None
    clock.now += 3
    assert pace.advance("perplexity", 2, 4) == 6.0
    assert pace.advance("perplexity", 1, 4) is None, "of another artifact"


def test_the_line_of_an_artifact_says_when_all_is_done():
    stream = io.StringIO()
    display = LogDisplay(stream)
    display.artifact("tiny dense", False)
    display.artifact("tiny wanda", False, 3600.0)

    first, second = stream.getvalue().splitlines()
    assert first == "tiny dense: started"
    hour = (time.localtime().tm_hour + 1) % 24
    assert re.fullmatch(rf"tiny wanda: started, all done at ({hour:02}|{(hour + 1) % 24:02}):\d\d:\d\d", second)
