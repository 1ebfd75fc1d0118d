"""The finish time follows what this run has seen, not only the plan."""

import io
import json
from functools import partial

import pytest

from bench import api
from bench.execution.events import Events
from bench.execution.listener import RunListener, TimeLeft
from bench.parts.forecasts import service
from bench.parts.forecasts.cost_model import CostModel
from bench.parts.forecasts.plan_costs import estimate_columns, estimate_seconds
from bench.parts.forecasts.time_left import MIN_SECONDS, Pace, ScaledForecast
from bench.planning.plan import make_plan
from bench.reporting.words import clock_time
from bench.results.run_status import AtWork
from helpers import runs


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def forecast(clock):
    """forecast(seconds by key, ...) -> a forecast, and work(key, seconds, measured=True) that lets
    an artifact end."""

    def make(estimates, are_seconds=True):
        made = ScaledForecast(estimates, are_seconds=are_seconds, clock=clock)

        def work(key, seconds, records=(), measured=True):
            running = runs.running(key=key)
            running.has_measured = measured
            made.start(running, TimeLeft())
            clock.now += seconds
            made.end(running, "", records)

        return made, work

    return make


def test_proportions_promise_nothing_until_an_artifact_has_taken_a_minute(forecast, clock):
    run, _ = forecast({"a": 1.0, "b": 1.0}, are_seconds=False)
    assert run.seconds_left() is None
    a = runs.running(key="a")
    run.start(a, TimeLeft())
    run.take(a, runs.progress("p", 1, 4), TimeLeft())
    clock.now += 2.0
    run.take(a, runs.progress("p", 2, 4), TimeLeft())
    assert run.left(a) == (None, 4.0), "a phase of six seconds says little"

    clock.now += MIN_SECONDS
    run.take(a, runs.progress("p", 3, 4), TimeLeft())
    assert run.seconds_left() == 31.0 + 93.0, "the other one takes as long"


def test_what_is_left_is_scaled_by_what_was_seen(forecast):
    run, work = forecast({"a": 5.0, "b": 10.0, "c": 20.0})
    work("a", 15.0)  # three times the estimate
    found = run.seconds_left()
    assert found == pytest.approx(30 * (15 + 2) / (5 + 2)), "and a tenth of the longest as planned"

    work("b", 15.0)  # one and a half times: two in all
    assert run.seconds_left() == pytest.approx(20 * (30 + 2) / (15 + 2))


@pytest.mark.parametrize("are_seconds", [True, False])
def test_a_short_artifact_does_not_scale_a_long_one(forecast, are_seconds):
    """A 7B model as it is, of which only the size is measured, loads for 30 s: its estimate says 1
    s. Pruning takes hours."""
    run, work = forecast({"dense": 1.0, "sparsegpt": 1800.0}, are_seconds)
    work("dense", 30.0)

    assert run.seconds_left() == (
        pytest.approx(1800 * (30 + 180) / (1 + 180)) if are_seconds else None
    )


def test_the_import_of_the_first_is_not_counted_for_the_others(forecast, clock):
    run, _ = forecast({"a": 5.0, "b": 5.0, "c": 5.0})
    a = runs.running(key="a")
    run.start(a, TimeLeft())
    clock.now += 60.0
    run.take(a, {"event": "imported"}, TimeLeft())
    clock.now += 5.0
    run.end(a, "", ())

    assert run.seconds_left() == 10.0


def test_an_artifact_that_takes_longer_moves_the_finish_time_while_it_runs(forecast, clock):
    run, _ = forecast({"a": 5.0, "b": 10.0})
    a = runs.running(key="a")
    run.start(a, TimeLeft())
    clock.now += 2.0
    assert run.seconds_left() == 13.0, "the plan is believed until more is known"
    run.take(a, runs.progress("p", 1, 4), TimeLeft())
    clock.now += 10.0
    run.take(a, runs.progress("p", 2, 4), TimeLeft())

    assert run.seconds_left() == pytest.approx(20.0 + 10.0 * (32 + 1) / (5 + 1))


def test_an_artifact_that_another_run_holds_or_has_measured_says_nothing(forecast):
    run, work = forecast({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0})
    work("b", 50.0, records=None)  # b is busy, and returns to the queue
    assert run.seconds_left() == 4.0

    work("c", 2.0, measured=False)
    assert run.seconds_left() == 3.0


def test_the_pace_of_a_phase_is_counted_from_where_it_went_on(clock):
    pace = Pace(clock)
    assert pace.advance("cast", 800, 1000) is None
    clock.now += 20
    assert pace.advance("cast", 900, 1000) == 20.0
    assert pace.advance("perplexity", 1, 4) is None
    clock.now += 3
    assert pace.advance("perplexity", 2, 4) == 6.0
    assert pace.advance("perplexity", 1, 4) is None, "of another artifact"


def test_a_phase_of_any_length_has_a_finish_time(forecast, clock):
    """A method may count so many steps that no calendar has the end."""
    run, _ = forecast({"a": 5.0})
    running, stream = runs.running(key="a"), io.StringIO()
    run.start(running, TimeLeft())
    for done in (1, 2):
        Events(stream).advance(done, 10**30)
    for line in stream.getvalue().splitlines():
        clock.now += 1000
        run.take(running, json.loads(line), TimeLeft())

    left = run.left(running)
    assert clock_time(left.phase) and clock_time(left.run)
    AtWork.model_validate(AtWork(label="a", left=left.phase).model_dump())


def estimated_tokens(spec):
    plan = make_plan(spec)
    methods = [some[0].artifact.method for some in plan.artifacts().values()]
    columns = estimate_columns(plan, CostModel(()))
    return {method: row["tokens"] for method, row in zip(methods, columns, strict=True)}


def test_a_stage_in_the_cache_takes_no_time(tmp_path, cache):
    """It would make the artifacts that have none of theirs there look as fast."""
    spec = runs.small(
        tmp_path / "r", methods=("sparsegpt", "wanda"), calibration={"sequences": 400}
    )
    missing = list(make_plan(spec).artifacts().values())
    before = estimate_seconds(missing, CostModel(()))
    planned = estimated_tokens(spec)
    built = next(some[0].artifact for some in missing if some[0].artifact.method == "sparsegpt")
    home = cache / "artifacts" / built.cache_names[-1]
    home.mkdir(parents=True)
    (home / "artifact.json").touch()
    after = estimate_seconds(missing, CostModel(()))

    assert after[built.key] < before[built.key] / 2
    found = {k: v for k, v in after.items() if k != built.key}
    assert found == {k: v for k, v in before.items() if k != built.key}
    again = estimated_tokens(spec)
    assert again["sparsegpt"] == planned["sparsegpt"] - 400 * built.calibration.seqlen
    assert again["wanda"] == planned["wanda"]


class Told(RunListener):
    """A listener that keeps the time left: of the run at each start, and of the phase at each
    event."""

    def __init__(self):
        self.run, self.phase = [], []

    def start(self, running, left):
        self.run.append(left.run)

    def take(self, running, event, left):
        self.phase.append(left.phase)


@pytest.mark.usefixtures("cache")
def test_listeners_are_told_the_time_left(tmp_path, monkeypatch):
    """The plan expects five seconds for each artifact. The clock stands still, so the first took
    none."""
    runs.workers_here(monkeypatch)
    still = partial(ScaledForecast, clock=lambda: 0.0)
    five = lambda missing, model: {ms[0].artifact.key: 5.0 for ms in missing}  # noqa: E731
    monkeypatch.setattr(service, "ScaledForecast", still)
    monkeypatch.setattr(service, "estimate_seconds", five)
    told = Told()
    api.execute(runs.small(tmp_path / "r", measures=("perplexity",)), told)

    assert told.run == [10.0, pytest.approx(5 * 0.5 / 5.5)] and 0.0 in told.phase
