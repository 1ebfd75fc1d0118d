"""Kills, crashes, broken promises, a full disk and Ctrl-C cost what they must and no more."""

import errno
import io
import json
import os
import re
import shutil
import signal
import sys
import time
from unittest.mock import Mock

import psutil
import pytest
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException, _wrap_exception

from bench import api
from bench.execution import disk, sweep
from bench.execution.events import Events
from bench.execution.processes import WorkerProcesses
from bench.execution.progress import LogDisplay
from bench.execution.worker import Assignment, work
from bench.execution.worker_process import StartedWorker
from bench.results.store import Store
from bench.system import cache, interpreter
from helpers import runs
from helpers.faulty import PATIENCE_S, gone, stopped_at, undisturbed, until

pytestmark = pytest.mark.usefixtures("world")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A results folder in which dense is done."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("dense")
        runs.own_cache(root, patch)
        runs.run_here(runs.small(root / "r", measures=("size",)), only=["dense"])
    return root / "r"


@pytest.fixture
def prepared(dense, tmp_path):
    """prepared(**changes) -> the spec and the command of a run that finds dense done."""

    def prepare(**changes):
        spec = runs.small(tmp_path / "r", measures=("size",), **changes)
        shutil.copytree(dense, spec.results)
        flags = ["--methods", ",".join(spec.methods), "--measures", "size"]
        return spec, ["run", *flags, *runs.flags(spec.results, windows=None)]

    return prepare


def again(cli, monkeypatch, command):
    """The same command once more, in this process: its output, and what it said beside it."""
    runs.workers_here(monkeypatch)
    code, out, err = cli(*command)
    assert code == 0, err
    return out, err


def test_what_ends_costs_its_artifact_alone_and_a_signal_the_run(
    tmp_path, prepared, cli, monkeypatch, gate
):
    """One started and ended by itself, and two forked: one killed, one ended by its library."""
    spec, command = prepared(methods=("dies", "waits", "leaves", "magnitude", "waits:at=write"))
    run, worker = stopped_at(gate, command)
    assert worker.ppid() != run.pid, "the first alone is no fork"
    gate.with_suffix(".reached").unlink()
    worker.kill()
    until(gate.with_suffix(".reached").exists, "the gate of the last")
    others = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 143, err
    assert err.splitlines()[-1] == "bench: Terminated. Run the same command to resume."
    assert "Traceback" not in err and gone(*others)
    left = [path.name for path in runs.left_over(spec.results, tmp_path / "cache")]
    planned = [m.artifact for m in api.plan(spec).measurements]
    last = next(a.key[:32] for a in planned if a.method == "waits:at=write")
    left = [name for name in left if name.startswith(last) or name.endswith(".tmp")]
    assert left == [f"{last}.lock"]
    got = runs.records(spec.results)
    assert {k[0] for k, r in got.items() if r.status == "ok"} == {"dense", "magnitude"}
    assert "killed by SIGKILL" in got["waits", None, "size"].reason
    assert "ended with code 3" in got["dies", None, "size"].reason
    assert "ended with code 1" in got["leaves", None, "size"].reason
    assert "never meant to be called" in got["leaves", None, "size"].traceback
    _, shown, _ = cli("show", got["dies", None, "size"].key, "--results", spec.results)
    assert "last words" in shown

    gate.unlink()
    command[2] = "magnitude,waits"
    out, err = again(cli, monkeypatch, command)

    assert "2 measurements run, 4 read" in out
    assert "6 measurements, 4 already recorded" in err


@pytest.mark.full
def test_two_runs_share_the_work(prepared, gate):
    """The second takes the free artifact, then waits for the one that the first holds."""
    spec, command = prepared(methods=("waits", "magnitude"))
    first, _ = stopped_at(gate, command)
    second = runs.start(*command)
    magnitude = [c for c in api.plan(spec).measurements if c.artifact.method == "magnitude"]
    store = Store(spec.results)
    until(lambda: all(store.get(c.key) for c in magnitude), "the second run to take the free one")
    gate.unlink()
    ends = [r.communicate(timeout=PATIENCE_S) for r in (first, second)]

    assert [first.returncode, second.returncode] == [0, 0], ends
    measured = [int(re.search(r"(\d+) measurements? run", out)[1]) for out, _ in ends]
    assert measured == [2, 2]
    assert len(runs.contents(spec.results)) == 6


REASONS = {
    "raises": "ArithmeticError: the third layer is odd",
    "nan": "CheckFailed: model.layers.0.mlp.up_proj.weight contains NaN or infinity",
    "breaks": "CheckFailed: 2:4 does not hold in 1 group, 1 of them in model.layers.1.self_attn",
    "returns_model": "TypeError: returns_model.apply returned LlamaForCausalLM: end it with return",
    "touches": "CheckFailed: model.norm.weight changed, and it is neither a target nor declared",
}


def test_a_failed_check_is_a_failed_row_with_the_reason(tmp_path, cli):
    """Failed measurements are tried again, and good ones are not."""
    spec = runs.small(tmp_path / "r", methods=(*REASONS, "declares"), measures=("size",))
    runs.run_here(spec)
    got = runs.records(spec.results)
    code, shown, _ = cli("show", got["raises", None, "size"].key[:12], "--results", spec.results)

    statuses = dict.fromkeys(REASONS, "failed") | {"dense": "ok", "declares": "ok"}
    assert {method: record.status for (method, *_), record in got.items()} == statuses
    for method, reason in REASONS.items():
        assert got[method, None, "size"].reason == got[method, None, "pattern"].reason
        assert got[method, None, "size"].reason.startswith(reason)
        assert "Traceback" in got[method, None, "size"].traceback
    assert got["declares", None, "pattern"].notes["changed"] == ["model.norm.weight"]
    assert code == 0 and 'raise ArithmeticError("the third layer is odd")' in shown
    events = runs.run_here(spec, only=["dense", "raises", "declares"])
    tried = {event["key"] for event in events if not event.get("known")}
    assert tried == {record.key for (method, *_), record in got.items() if method == "raises"}


@pytest.mark.parametrize("at", [0, 1])
def test_a_worker_that_dies_before_it_reads_is_a_failed_row(prepared, cli, monkeypatch, at):
    """Whether it ends before its assignment is written, or while it is."""
    spec, command = prepared()
    program = [sys.executable, "-c", "import os; os._exit(7)"]
    monkeypatch.setattr(interpreter, "command", lambda *_: program)
    real = StartedWorker.send
    monkeypatch.setattr(
        StartedWorker, "send", lambda self, line: (at and self.wait(), real(self, line * 50))[1]
    )
    code, out, err = cli(*command)

    assert code == 1
    assert "2 measurements tried (0 measured, 2 failed), 2 read from" in out
    assert err.splitlines()[-1].startswith("bench: 2 measurements failed")
    assert "ended with code 7" in runs.records(spec.results)["magnitude", None, "size"].reason


FULL = OSError(errno.ENOSPC, "No space left on device")
FULL_IN_WORDS = SafetensorError("I/O error: No space left on device (os error 28)")
FULL_CHECKPOINT = CheckpointException("CheckpointException", {0: _wrap_exception(FULL)})
"""Exception of torch when a checkpoint is written to a full disk."""


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ("os.fsync", FULL),
        ("os.replace", FULL),
        ("safetensors.torch.save_file", FULL_IN_WORDS),
        ("bench.execution.build.verify", FULL_CHECKPOINT),
    ],
)
def test_full_disk_ends_the_work_with_the_reason(prepared, monkeypatch, where, fault):
    spec, _ = prepared()
    monkeypatch.setattr(where, Mock(side_effect=fault))
    label = runs.run_here(spec, only=["magnitude"])
    assert [e["event"] for e in label] == ["fatal"]
    assert label[0]["reason"].startswith("the disk is full (")
    assert {k[0] for k in runs.records(spec.results)} == {"dense"}


def test_a_worker_whose_runner_is_gone_records_nothing(prepared):
    """Its next event is no fault of the method that reports its progress."""

    class Closed(io.StringIO):
        def write(self, text):
            if '"state"' in text:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            return super().write(text)

    spec, _ = prepared()
    _, measurements = api.plan(spec).artifacts().values()
    asked = Assignment(measurements=measurements, results=spec.results, wait=True)
    with pytest.raises(SystemExit):
        work(asked, Events(Closed()))

    assert {k[0] for k in runs.records(spec.results)} == {"dense"}


@pytest.mark.slow
def test_a_folder_that_vanishes_for_ten_seconds_costs_nothing(
    tmp_path, prepared, monkeypatch, gate
):
    """Under a worker that is about to write."""
    spec, command = prepared(methods=("waits", "declares"))
    run, _ = stopped_at(gate, command)
    spec.results.rename(tmp_path / "away")
    gate.unlink()
    time.sleep(10)
    assert not spec.results.exists(), "somebody made it anew"
    assert run.poll() is None
    (tmp_path / "away").rename(spec.results)
    _, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 0, err
    calm = undisturbed(tmp_path, monkeypatch, methods=spec.methods, measures=("size",))
    assert runs.contents(spec.results) == calm


@pytest.mark.full
@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_clock_that_jumps_changes_no_record(tmp_path, monkeypatch, cli, jump):
    """Back, or ahead, in the middle of a run."""
    calm = runs.small(tmp_path / "calm", methods=("wanda",))
    runs.run_here(calm)
    cache.gc(everything=False, days=0)
    runs.workers_here(monkeypatch)
    real, calls = time.time, []

    def jumping():
        calls.append(1)
        return real() + (jump if len(calls) > 12 else 0)

    monkeypatch.setattr(time, "time", jumping)
    summary = api.execute(runs.small(tmp_path / "r", methods=("wanda",)), LogDisplay(io.StringIO()))
    code, out, _ = cli("top", tmp_path / "r")

    assert summary.tried == {"ok": 6} and len(calls) > 20
    assert runs.contents(tmp_path / "r") == runs.contents(tmp_path / "calm")
    assert code == 0 and "6/6" in out and "-1 day" not in out
    for log in (tmp_path / "r/logs").iterdir():
        assert 0 <= json.loads(log.read_text().splitlines()[-1])["seconds"] < 1000


class FullDiskWorker(runs.Here):
    """A worker that says one thing and is gone."""

    said = '{"event": "fatal", "reason": "the disk is full (r): free some space"}'

    def __init__(self, *_, **__):
        super().__init__()

    def lines(self):
        return iter(self.said.splitlines())


def test_collecting_the_cache_early_disturbs_no_runner(tmp_path, prepared, monkeypatch):
    """It still has its log to read, and corpora and models for its workers."""
    spec, _ = prepared()
    corpus = tmp_path / "cache/data/owner/text"
    corpus.mkdir(parents=True)

    class Early(LogDisplay):
        def begin(self, *_):
            cache.gc(everything=True, days=0)
            assert corpus.exists()

    class Collected(FullDiskWorker):
        said = ""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            cache.gc(everything=True, days=0)

    monkeypatch.setattr(WorkerProcesses, "start", Collected)
    assert api.execute(spec, Early(io.StringIO())).failed == 2


def test_full_disk_stops_the_run(prepared, monkeypatch, cli):
    spec, command = prepared()
    monkeypatch.setattr(WorkerProcesses, "start", FullDiskWorker)
    monkeypatch.setattr(sweep, "has_room", lambda *_: False)
    with pytest.raises(disk.RunStopped, match="the disk is full"):
        api.execute(spec, LogDisplay(io.StringIO()))
    code, _, err = cli(*command)
    assert code == 1
    assert err.splitlines()[-1] == "bench: stopped: the disk is full (r): free some space"


def test_full_disk_under_the_runner_itself(prepared, monkeypatch, cli):
    _, command = prepared()
    monkeypatch.setattr(os, "replace", Mock(side_effect=FULL))
    code, _, err = cli(*command)
    assert code == 1
    assert err.splitlines()[-1].startswith("bench: stopped: the disk is full (")
    assert "Traceback" not in err
