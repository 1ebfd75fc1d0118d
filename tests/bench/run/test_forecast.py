"""The finish time follows what this run has seen, not only the plan."""

import io
import re
import time

from bench.run.forecast import Forecast
from bench.run.progress import LogDisplay


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_nothing_is_promised_before_an_artifact_has_ended():
    forecast = Forecast({"a": 5.0, "b": 5.0}, Clock())
    forecast.start()

    assert forecast.seconds_left() is None


def test_what_is_left_is_scaled_by_what_was_seen():
    clock = Clock()
    forecast = Forecast({"a": 5.0, "b": 10.0, "c": 20.0}, clock)
    forecast.start()
    clock.now += 15.0  # three times the estimate
    forecast.end("a")
    assert forecast.seconds_left() == 90.0

    forecast.start()
    clock.now += 15.0  # one and a half times: two in all
    forecast.end("b")
    assert forecast.seconds_left() == 40.0


def test_an_artifact_that_another_run_holds_stays_in_what_is_left():
    clock = Clock()
    forecast = Forecast({"a": 1.0, "b": 1.0, "c": 1.0}, clock)
    forecast.start()
    clock.now += 2.0
    forecast.end("a")
    forecast.start()
    clock.now += 50.0  # asked for b, which is busy

    assert forecast.seconds_left() == 4.0


def test_the_line_of_an_artifact_says_when_all_is_done():
    stream = io.StringIO()
    display = LogDisplay(stream)
    display.artifact("tiny dense", False)
    display.artifact("tiny wanda", False, 3600.0)

    first, second = stream.getvalue().splitlines()
    assert first == "tiny dense: started"
    hour = (time.localtime().tm_hour + 1) % 24
    assert re.fullmatch(rf"tiny wanda: started, all done at ({hour:02}|{(hour + 1) % 24:02}):\d\d:\d\d", second)
