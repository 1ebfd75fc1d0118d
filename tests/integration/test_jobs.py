"""Artifacts side by side: records as of one at a time. A dead worker costs its artifact only."""

import io
import threading
from itertools import product, starmap
from types import SimpleNamespace

import pytest
from filelock import FileLock

from bench import api
from bench.execution import artifact_task, sweep
from bench.execution.bars import RichDisplay
from bench.execution.events import WAITING
from bench.execution.executor import LOST, STALLED
from bench.execution.forecast import Forecasts, RunForecast
from bench.execution.processes import WorkerProcesses
from bench.execution.progress import LogDisplay
from bench.execution.worker import Assignment
from bench.results.run_status import read_statuses
from bench.results.store import Store
from helpers import runs

pytestmark = pytest.mark.usefixtures("world")


def test_they_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.planning.resolve.cores", lambda: 6)

    def threads(jobs, threads=None):
        plan = api.plan(runs.small(tmp_path / "r", jobs=jobs, threads=threads))
        return plan.measurements[0].artifact.threads

    assert list(map(threads, (1, 2, 4, 9))) == [6, 3, 1, 1] and threads(2, 5) == 5


def test_a_worker_that_is_lost_before_it_begins_costs_its_artifact_only(tmp_path, monkeypatch):
    """A task of Ray is lost in this way when its node dies."""

    class Lost(runs.Here):
        def lines(self):
            return iter(())

        def wait(self, timeout=None):
            return LOST

    monkeypatch.setattr(WorkerProcesses, "queues", True)
    monkeypatch.setattr(WorkerProcesses, "start", lambda processes, log: Lost())
    spec = runs.small(tmp_path / "r", measures=("size",))
    summary = api.execute(spec, RichDisplay(io.StringIO()))

    assert summary.failed == len(summary.records) == summary.tried["failed"] > 0


def test_what_another_run_takes_up_when_a_worker_dies_is_waited_for(tmp_path, monkeypatch):
    """It waited for the artifact, and has its lock before the death can be recorded."""
    spec = runs.small(tmp_path / "r")
    store, started = Store(spec.results), []

    class Dies(runs.Here):
        def lines(self):
            key = Assignment.model_validate_json(self._job).measurements[0].artifact.key
            self.other = FileLock(store.lock(key), thread_local=False)
            self.other.acquire()
            yield from ()

        def wait(self, timeout=None):
            return -9

    def start(processes, log):
        if started:
            started[0].other.release()
        started.append(runs.Here() if started else Dies())
        return started[-1]

    monkeypatch.setattr(WorkerProcesses, "start", start)
    summary = api.execute(spec)

    assert {record.status for record in summary.records} == {"ok"} and len(summary.records) == 6
    assert summary.tried["failed"] == 0 and len(started) == 3


def test_what_was_recorded_before_a_worker_died_has_not_failed(tmp_path, monkeypatch):
    """By another run, or by this worker, which did not come to say it."""

    class Dies(runs.Here):
        def lines(self):
            list(super().lines())
            yield from ()

        def wait(self, timeout=None):
            return -9

    monkeypatch.setattr(WorkerProcesses, "start", lambda processes, log: Dies())
    said = io.StringIO()
    summary = api.execute(runs.small(tmp_path / "r", measures=("size",)), LogDisplay(said))
    ((status, _),), _ = read_statuses(tmp_path / "r")

    assert {record.status for record in summary.records} == {"ok"} and not summary.tried
    assert "failed" not in said.getvalue() and (status.tried, status.known) == ({}, 4)


def test_a_version_of_what_is_being_made_lets_another_artifact_go_first(tmp_path, monkeypatch):
    """The records are those of one at a time."""
    order, two_began = [], threading.Event()

    class Slow(runs.Here):
        def send(self, line):
            super().send(line)
            order.append(Assignment.model_validate_json(line).measurements[0].artifact.label)
            if len(order) == 2:
                two_began.set()

        def lines(self):
            assert two_began.wait(60)
            yield from super().lines()
            order.append("end")

    monkeypatch.setattr(WorkerProcesses, "start", lambda processes, log: Slow())
    monkeypatch.setattr(Forecasts, "of_run", lambda *_: Estimates())
    monkeypatch.setattr(sweep, "find_forecasts", Forecasts)
    changes = {"methods": ("magnitude", "wanda"), "quantizers": ("none", "int8")}
    changes["measures"] = ("size",)
    api.execute(runs.small(tmp_path / "two", jobs=2, **changes))
    runs.run_here(runs.small(tmp_path / "one", **changes))

    assert [label.split()[1] for label in order[:2]] == ["wanda", "magnitude"], order
    assert runs.contents(tmp_path / "two") == runs.contents(tmp_path / "one")


def test_all_are_asked_to_end_at_once_trainings_last(monkeypatch):
    """Work that never began is not waited for."""
    monkeypatch.setattr(sweep, "time", SimpleNamespace(monotonic=lambda: 100.0))
    said = []

    def task(training, has_begun):
        worker = SimpleNamespace(ask_to_end=lambda: said.append("asked"))
        worker.stop = lambda patience: said.append((training, patience))
        sizes = SimpleNamespace(parameters=1e8)
        artifact = SimpleNamespace(training=training, sizes=sizes, nodes=1)
        return SimpleNamespace(artifact=artifact, has_begun=has_begun, worker=worker)

    tasks = list(starmap(task, product(("a training", None), (True, False))))
    sweep.Sweep._stop(SimpleNamespace(_at_work=tasks))

    ended = [(None, sweep.STOP_S), (None, 0), ("a training", 4 + 17 * 1e8 / 1e8), ("a training", 0)]
    assert said == ["asked"] * 4 + ended


def test_an_artifact_without_progress_fails_and_the_next_goes_on(tmp_path, monkeypatch):
    class Hung(runs.Here):
        def __init__(self):
            super().__init__()
            self.killed = threading.Event()

        def lines(self):
            asked = Assignment.model_validate_json(self._job).measurements[0].artifact
            if asked.method == "magnitude":
                assert self.killed.wait(60)
                return
            yield from super().lines()

        def kill(self):
            self.killed.set()

    monkeypatch.setattr(WorkerProcesses, "start", lambda processes, log: Hung())
    monkeypatch.setattr(artifact_task, "WAKE_S", 0.1)
    asked = {"methods": ("magnitude", "wanda"), "measures": ("size",), "stall_timeout": 0.5}
    summary = api.execute(runs.small(tmp_path / "r", **asked))

    statuses = {r.identity.method: r.status for r in summary.records}
    assert statuses == {"dense": "ok", "magnitude": "failed", "wanda": "ok"}
    for record in summary.records:
        assert record.status == "ok" or "made no progress for stall_timeout" in record.reason


@pytest.fixture
def task():
    """An artifact of one stage at work in a worker that `killed` names when it is killed."""
    one = artifact_task.ArtifactTask.__new__(artifact_task.ArtifactTask)
    one.idle_s, one.killed, one.has_begun, one.may_wait = 0.0, None, True, True
    one.says_it_waits, one.is_stopped, one.is_far = False, False, False
    one.worker = SimpleNamespace(kill=lambda: None, is_stopped=lambda: False)
    return one


def test_time_spent_waiting_or_stopped_is_no_stall(task):
    task.note_time(100, 10)
    task.note_progress({"event": "state", "state": "first step"})
    for _ in range(3):
        task.note_time(4, 10)
        task.note_time(4, 10)
        task.note_progress({"event": "progress"})
    task.note_progress({"event": "state", "state": WAITING})
    task.note_time(100, 10)
    task.worker.is_stopped = lambda: True
    assert [task.note_time(4, 40) for _ in range(3)] == [True, False, False]
    assert task.killed is None
    task.worker.is_stopped = lambda: False

    task.note_progress({"event": "imported"})
    task.note_time(11, 10)
    assert task.killed == STALLED


def test_a_wait_that_cannot_be_checked_has_a_limit(task):
    task.is_far = True
    task.note_progress({"event": "state", "state": WAITING})
    task.note_time(100, 10)
    assert task.killed is None
    task.note_time(1, 10)
    assert task.killed == STALLED


class Estimates(RunForecast):
    """Wanda's take longest."""

    def seconds(self, measurements):
        return {"wanda": 9.0, "magnitude": 5.0}.get(measurements[0].artifact.method, 1.0)
