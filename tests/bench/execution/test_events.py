"""What a worker says as it goes, and what its runner makes of it."""

import io
import json
import signal
import threading
import time
from queue import SimpleQueue

import numpy as np
import pytest
import torch

from bench.execution.artifact_task import next_event
from bench.execution.events import Events
from bench.execution.worker import Assignment, work
from bench.planning import plan
from bench.results.store import Store
from helpers import runs

pytestmark = pytest.mark.usefixtures("cache")


def test_a_worker_says_what_it_does_before_each_first_step(tmp_path):
    spec = runs.small(tmp_path / "r", measures=("perplexity",))
    artifacts = plan.make_plan(spec, fetch=True).artifacts().values()
    measurements = next(m for m in artifacts if m[0].artifact.seed is None)
    output = io.StringIO()
    Store(spec.results)  # as a run does first
    work(Assignment(measurements=measurements, results=spec.results, wait=True), Events(output))
    events = [json.loads(line) for line in output.getvalue().splitlines()]
    said = [(e["phase"], e["state"]) for e in events if e["event"] == "state"]
    label = measurements[0].artifact.stages[-1].label

    assert events[0] == {"event": "imported"}
    assert said[:2] == [(label, "loading"), (label, "first step")]
    assert [state for phase, state in said if phase == "perplexity"] == ["loading", "first step"]


def test_a_signal_that_another_thread_is_given_ends_the_wait():
    """The system chooses the thread; a wait without end would see the signal at the next event, if
    one comes."""
    events, is_over, said = SimpleQueue(), threading.Event(), []

    def other():
        time.sleep(0.2)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if not is_over.wait(60):
            said.append("an event")
            events.put(said[0])

    # A process in the background ignores it.
    own = signal.signal(signal.SIGINT, signal.default_int_handler)

    def wait():
        thread.start()
        next_event(events)

    thread = threading.Thread(target=other)
    try:
        with pytest.raises(KeyboardInterrupt):
            wait()
    finally:
        signal.signal(signal.SIGINT, own)
        is_over.set()
        thread.join()
    assert not said


def test_a_figure_that_json_has_not_is_left_out():
    stream = io.StringIO()
    Events(stream).advance(3, 3, loss=float("nan"), norm=float("inf"), rate=2.0)

    assert json.loads(stream.getvalue())["figures"] == {"rate": 2.0}


@pytest.mark.parametrize(
    ("done", "total", "sent"),
    [(1.5, 3, (1, 3)), (np.int64(1), np.float32(2), (1, 2)), (-1, -5, (0, 0)), (7, 5, (5, 5))],
)
def test_any_numbers_of_a_method_are_progress(done, total, sent):
    stream = io.StringIO()
    Events(stream).advance(done, total, loss=np.float32(0.5), norm=torch.tensor(2.0))

    event = json.loads(stream.getvalue())
    assert (event["done"], event["total"]) == sent
    assert event["figures"] == {"loss": 0.5, "norm": 2.0}
