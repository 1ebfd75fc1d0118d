"""Lines on a worker's channel that no worker sends, workers that a signal stops, and memory."""

import psutil
import pytest

from bench import api
from bench.execution import artifact_task, memory_limit
from bench.execution.events import read_event
from bench.execution.listener import RunListener
from bench.execution.memory_limit import MemoryLimit
from bench.execution.processes import WorkerProcesses
from bench.execution.worker import Assignment
from helpers import plugins, runs

FORGED = {
    "text": "hello",
    "deep": "[" * 100_000,
    "unknown event": '{"event": "exit"}',
    "missing field": '{"event": "state", "phase": "x"}',
    "half a character": '{"event": "state", "phase": "\\ud800", "state": "x"}',
}
OF_ANOTHER = '{"event": "measurement", "key": "a", "status": "ok"}'


class Forging(runs.Here):
    """A worker of the method magnitude that sends other lines, and ends."""

    said = ""

    def lines(self):
        asked = Assignment.model_validate_json(self._job).measurements
        if asked[0].artifact.method != "magnitude":
            yield from super().lines()
        else:
            yield self.said


@pytest.mark.parametrize("line", FORGED.values(), ids=FORGED)
def test_a_line_that_no_worker_sends_is_no_event(line):
    with pytest.raises(ValueError, match=r"(?i)event"):
        read_event(line)


@pytest.mark.parametrize("line", [FORGED["text"], OF_ANOTHER], ids=["text", "another key"])
def test_a_line_that_no_worker_sends_costs_its_row(tmp_path, cache, monkeypatch, line):
    monkeypatch.setattr(Forging, "said", line)
    monkeypatch.setattr(WorkerProcesses, "start", lambda processes, log: Forging())
    asked = {"methods": ("magnitude", "wanda"), "measures": ("size",)}
    summary = api.execute(runs.small(tmp_path / "r", **asked))

    statuses = {r.identity.method: r.status for r in summary.records}
    assert statuses == {"dense": "ok", "magnitude": "failed", "wanda": "ok"}
    reasons = {r.reason for r in summary.records if r.status == "failed"}
    assert all("an event that no worker sends" in reason for reason in reasons), reasons


WRITES = """
for name in os.listdir("/proc/self/fd"):
    if int(name) > 2 and "pipe:" in os.readlink("/proc/self/fd/" + name):
        os.write(int(name), b'{"event": "measurement"}\\n')
"""
SITE = {
    "writes": WRITES,
    "stops": "os.kill(os.getpid(), signal.SIGSTOP)",
    "grows": "held = [bytearray(2**28) for _ in iter(int, 1)]",
    "recurses": "sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = plugins.install(tmp_path / "site", "channels", SITE)
    yield from runs.world(folder, tmp_path, monkeypatch)


@pytest.mark.full
@pytest.mark.usefixtures("site")
def test_a_method_that_writes_to_the_channel_or_takes_all_memory_costs_its_row(
    tmp_path, monkeypatch
):
    share = 2.5e9 / psutil.virtual_memory().total
    monkeypatch.setattr(memory_limit, "LOOK_S", 0.1)
    monkeypatch.setattr(artifact_task, "WAKE_S", 0.1)
    methods = ("writes", "grows", "recurses", "magnitude")
    asked = {"methods": methods, "measures": ("size",), "memory_share": share}
    summary = api.execute(runs.small(tmp_path / "r", **asked))

    reasons = {r.identity.method: r.reason for r in summary.records if r.identity.measure == "size"}
    assert "an event that no worker sends" in reasons["writes"]
    assert reasons["dense"] == reasons["magnitude"] == ""
    for name in ("grows", "recurses"):
        assert "more than its memory_share" in reasons[name], reasons


class Told(RunListener):
    """A listener that keeps what the run says."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.mark.full
@pytest.mark.usefixtures("site")
def test_a_stopped_worker_is_said_and_ended_after_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact_task, "STOPPED_S", 1.0)
    told = Told()
    asked = {"methods": ("stops",), "measures": ("size",), "stall_timeout": 20}
    summary = api.execute(runs.small(tmp_path / "r", **asked), told)

    (said,) = [note for note in told.notes if "stopped" in note]
    assert "kill -CONT" in said
    reasons = {r.identity.method: r.reason for r in summary.records}
    assert "made no progress for stall_timeout" in reasons["stops"]


def test_the_limit_names_the_worker_that_takes_most(monkeypatch):
    monkeypatch.setattr(memory_limit, "LOOK_S", 0.0)
    me = psutil.Process().pid
    assert MemoryLimit(1.0).find_largest({me, 0}) is None
    assert MemoryLimit(1e-9).find_largest({me, 0, 2**22}) == me
