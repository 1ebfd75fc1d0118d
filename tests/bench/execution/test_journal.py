"""What a run leaves for those who watch it, and what bench top makes of it."""

import fcntl
import json
import threading
import time
from unittest.mock import Mock

import pytest
from filelock import FileLock

from bench import api
from bench.execution import journal as journals
from bench.execution.journal import Journal
from bench.execution.listener import RunningArtifact, TimeLeft
from bench.results.run_status import (
    KEPT,
    AtWork,
    RunStatus,
    is_alive,
    lock_of,
    read_statuses,
    sweep_statuses,
    write_status,
)
from helpers import runs, terminal

pytestmark = pytest.mark.usefixtures("world")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "r/records").mkdir(parents=True)
    return tmp_path / "r"


def planned(root):
    return RunningArtifact(list(api.plan(runs.small(root)).measurements[:1]), "a", "cpu")


def lines(root):
    return {
        p.stem: [json.loads(line) for line in p.read_text().splitlines()]
        for p in (root / "logs").glob("*.jsonl")
    }


def test_a_run_leaves_its_status_and_a_log_for_each_artifact(tmp_path, monkeypatch):
    runs.workers_here(monkeypatch)
    spec = runs.small(tmp_path / "r", methods=("magnitude", "raises"), measures=("size",))
    summary = api.execute(spec)

    ((status, alive),), problems = read_statuses(tmp_path / "r")
    assert (alive, problems, status.total, status.known, status.at_work) == (False, [], 6, 0, [])
    assert status.tried == {"ok": 4, "failed": 2} == dict(summary.tried) and status.done == 6
    assert status.ended >= status.started and status.outcome == ""
    logs = lines(tmp_path / "r")
    assert logs.keys() == {m.artifact.key[:32] for m in api.plan(spec).measurements}
    for key, events in logs.items():
        assert (events[0]["event"], events[-1]["event"]) == ("started", "ended")
        assert events[0]["arithmetic"] == events[0]["dtype"] == "float32"
        assert events[0]["artifact"][:32] == key and events[0]["run"] == status.name
        assert {e["status"] for e in events if e["event"] == "measurement"} in ({"ok"}, {"failed"})
    assert not list((tmp_path / "r/runs").glob("*.lock"))


def test_a_log_is_bounded(root, monkeypatch):
    monkeypatch.setattr(journals, "MAX_BYTES", 2000)
    monkeypatch.setattr(journals, "PROGRESS_S", 0.0)
    running = planned(root)
    journal = Journal(root, "local", pytest.fail)
    journal.start(running, TimeLeft())
    for done in range(1000):
        journal.take(running, runs.progress("p", done, 10_000, loss=1.0), TimeLeft())
    failed = {"event": "measurement", "key": "k", "status": "failed", "reason": "x" * 10**6}
    journal.take(running, failed, TimeLeft())
    (log,) = (root / "logs").iterdir()
    assert log.stat().st_size < 2000 + 2 * journals.MAX_REASON
    found = [e["event"] for e in lines(root)[running.artifact.key[:32]]][-1]
    assert found == "measurement", "what happened is always said"
    journal.start(running, TimeLeft())
    assert len(lines(root)[running.artifact.key[:32]]) == 1, "the next attempt begins a new one"
    journal.close()


def test_the_logs_of_artifacts_side_by_side_all_have_progress(root):
    plan = api.plan(runs.small(root))
    journal = Journal(root, "local", pytest.fail)
    for measurements in plan.artifacts().values():
        running = RunningArtifact(measurements, "a", "cpu")
        journal.start(running, TimeLeft())
        journal.take(running, runs.progress("p", 1, 9), TimeLeft())
    journal.close()

    events = [[e["event"] for e in log] for log in lines(root).values()]
    assert events == [["started", "progress"]] * 2


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (None, ""),
        (KeyboardInterrupt(), "stopped by a signal"),
        (ValueError("odd"), "ValueError: odd"),
    ],
)
def test_the_status_says_why_a_run_ended_early(root, fault, outcome):
    Journal(root, "local", pytest.fail).close(fault)
    ((status, alive),), _ = read_statuses(root)

    assert status.outcome == outcome and status.ended and not alive


def test_a_folder_that_cannot_be_written_is_said_once(root, monkeypatch):
    said = []
    journal = Journal(root, "local", said.append)
    monkeypatch.setattr(
        journals, "write_status", Mock(side_effect=OSError(28, "No space left on device"))
    )
    journal.begin(1, 0)
    journal.start(planned(root), TimeLeft())
    journal.close()

    assert len(said) == 1 and "No space left" in said[0] and "goes on without" in said[0]


def test_a_folder_that_vanished_is_not_made_anew(root):
    journal = Journal(root, "local", pytest.fail)
    root.rename(root.with_name("away"))
    journal.begin(1, 0)
    assert not root.exists()
    root.with_name("away").rename(root)
    journal.close()


def test_old_statuses_go_and_living_runs_stay(root):
    for i in range(KEPT + 5):
        about = {"code": "c", "host": "h", "executor": "local", "updated": i}
        write_status(root, RunStatus(name=f"n{i}", started=i, **about))
    (root / "runs/n1.lock").touch()
    with FileLock(lock_of(root, "n0")):
        sweep_statuses(root)
        assert [s.name for s, alive in read_statuses(root)[0] if alive] == ["n0"]
        left = {p.name for p in (root / "runs").iterdir()}
    assert left == {"n0.json", "n0.lock", *(f"n{i}.json" for i in range(5, KEPT + 5))}


def at_work(root, name="living"):
    now = time.time()
    progress = {"label": "tiny cast", "phase": "train", "done": 30, "total": 60}
    work = AtWork(**progress, figures={"loss": 2.5}, since=now - 60, left=600.0)
    about = {"code": "1.0 (code a)", "host": "node7", "executor": "ray"}
    counts = {"total": 8, "known": 2, "tried": {"failed": 1}, "left": 900.0, "at_work": [work]}
    write_status(root, RunStatus(name=name, started=now - 90, updated=now, **about, **counts))


def test_top_shows_what_is_at_work(root, cli, monkeypatch):
    at_work(root)
    with FileLock(lock_of(root, "living")):
        code, out, _ = cli("top", root, "--once")
        one, two = out.splitlines()
        assert code == 0 and all(word in one for word in ("node7 ray", "3/8", "1 failed", "until"))
        assert all(word in two for word in ("tiny cast: train", "30/60", "loss 2.5", "until"))
        (row,) = json.loads(cli("top", root, "--json")[1])
        assert row["state"] == "running" and row["at_work"][0]["label"] == "tiny cast"
    _, out, _ = cli("top", root)
    assert "died after" in out and "tiny cast" not in out


def test_top_ends_when_the_last_run_has(root, output, monkeypatch):
    at_work(root)
    terminal.open_terminal(monkeypatch, 80)
    lock = FileLock(lock_of(root, "living"))
    lock.acquire()
    looks = []
    monkeypatch.setattr(
        "bench.cli.watch.time.sleep",
        lambda s: looks.append(s) or (len(looks) == 3 and lock.release()),
    )
    assert "died after" in output("top", root)
    assert len(looks) == 3


def test_top_says_what_is_no_status(root, cli):
    (root / "runs").mkdir()
    (root / "runs/x.json").write_text('{"name": "\x1b[2J"}')
    code, out, err = cli("top", root)
    assert code == 0 and "is not the status of a run" in err and "no run has written to" in out


def test_two_who_ask_about_a_dead_run_do_not_see_each_other(root, monkeypatch):
    lock_of(root, "dead").parent.mkdir()
    lock_of(root, "dead").touch()
    flock, seen = fcntl.flock, []

    def flock_and_ask(handle, how):
        flock(handle, how)
        if not seen:
            seen.append(None)
            seen.append(is_alive(root, "dead"))

    monkeypatch.setattr(fcntl, "flock", flock_and_ask)

    assert is_alive(root, "dead") is False and seen == [None, False]


def test_a_run_that_is_asked_about_while_it_begins_is_seen_to_live(root, monkeypatch):
    """Whoever asks has its lock for a moment."""
    asked = threading.Event()

    def lock_of_asked(folder, name):
        path = lock_of(folder, name)
        if not asked.is_set():
            path.parent.mkdir(exist_ok=True)
            asking = FileLock(path, thread_local=False)
            asking.acquire()
            asked.set()
            threading.Timer(0.3, asking.release).start()
        return path

    monkeypatch.setattr(journals, "lock_of", lock_of_asked)
    journal = Journal(root, "local", pytest.fail)
    journal.begin(1, 0)

    assert [alive for _, alive in read_statuses(root)[0]] == [True]
    journal.close()
