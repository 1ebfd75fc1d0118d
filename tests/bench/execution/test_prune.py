"""`bench prune` and `bench finetune` as runs of one artifact: what a user hears of a fault, and
which folder is copied."""

import sys

import pytest

from baselines.magnitude import Magnitude
from bench.execution import prune, sweep, worker
from bench.inputs import loading
from bench.planning import spec
from bench.system import interpreter
from bench.system.cache import cache_dir
from bench.verify import CheckFailed
from helpers import runs
from methods.contract.errors import Diverged, Skipped, UserError

PRUNE = ("prune", "--method", "magnitude", "--device", "cpu", "--set", "threads=1", "--out")
FAILED = "bench: magnitude on tiny failed: "
NOTHING = ". Nothing was written."


@pytest.mark.parametrize(
    ("fault", "code", "said", "traced"),
    [
        (UserError("no blocks: name another"), 2, "bench: no blocks: name another", False),
        (Skipped("no library"), 2, "bench: magnitude cannot run here: no library", False),
        (Diverged("loss is nan"), 1, f"{FAILED}loss is nan{NOTHING}", False),
        (CheckFailed("not 2:4"), 1, f"{FAILED}CheckFailed: not 2:4{NOTHING}", False),
        (ArithmeticError("odd"), 1, f"{FAILED}ArithmeticError: odd{NOTHING}", True),
        (OSError(28, "No space left on device"), 1, "bench: stopped: the disk is full", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_fault_of_the_method(fault, code, said, traced, cli, cache, tmp_path, monkeypatch):
    """A traceback is shown if nobody expects the fault."""

    def fail(*_):
        raise fault

    runs.workers_here(monkeypatch)
    monkeypatch.setattr(Magnitude, "apply", fail)
    # A worker that says so is believed if the disk has no room.
    monkeypatch.setattr(sweep, "has_room", lambda folder, size: not isinstance(fault, OSError))
    ended, out, err = cli(*PRUNE, tmp_path / "out")

    assert (ended, out) == (code, "")
    assert err.splitlines()[-1].startswith(said)
    assert ("Traceback" in err and "raise fault" in err) == traced
    assert not (tmp_path / "out").exists() and not list((cache / "tmp").iterdir())


@pytest.mark.usefixtures("cache")
def test_a_crash_costs_the_model_and_not_the_command(cli, tmp_path, monkeypatch):
    program = 'import os, sys; print("last words", file=sys.stderr, flush=True); os._exit(3)'
    monkeypatch.setattr(interpreter, "command", lambda *_: [sys.executable, "-c", program])
    code, _, err = cli(*PRUNE, tmp_path / "out")

    assert code == 1 and "\nlast words\n" in err
    said = f"{FAILED}WorkerEnded: the process ended with code 3; its log is "
    assert err.splitlines()[-1].startswith(said)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("cache")
def test_the_second_command_takes_the_model_from_the_cache(cli, tmp_path, monkeypatch):
    runs.workers_here(monkeypatch)
    assert cli(*PRUNE, tmp_path / "one")[0] == 0
    monkeypatch.setattr(loading, "load", None)
    assert cli(*PRUNE, tmp_path / "two")[0] == 0

    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


@pytest.mark.usefixtures("cache")
def test_a_stage_that_changes_nothing_has_no_folder_to_copy(tmp_path, monkeypatch):
    """DSnoT with this threshold swaps no weight."""
    runs.workers_here(monkeypatch)
    for method in ("dense", "magnitude", "dsnot:from=magnitude:threshold=1e5"):
        prune.write_pruned(runs.small(tmp_path / "r", methods=(method,)), tmp_path / method[:5])
    folders = (runs.TINY, *(tmp_path / name for name in ("dense", "magni", "dsnot")))
    tiny, dense, magnitude, dsnot = ((f / "model.safetensors").read_bytes() for f in folders)
    assert tiny == dense != magnitude == dsnot
    assert not list(cache_dir().glob("tmp/*")) and not (tmp_path / "r").exists()


@pytest.mark.usefixtures("cache")
def test_settings_of_many_artifacts_in_a_config_have_no_effect(cli, tmp_path, monkeypatch):
    def take(plan, *_):
        taken.append(plan)
        raise UserError("enough")

    taken = []
    monkeypatch.setattr(prune, "execute", take)
    monkeypatch.setattr(spec, "names", lambda section: ["local", "other"])
    many = 'measures = "perplexity"\nexecutor = "other"\nlog_to = "other"\nshard = "2/2"\njobs = 2'
    (tmp_path / "c.toml").write_text(f"{many}\nseeds = 5")
    assert cli(*PRUNE, tmp_path / "out", "--config", tmp_path / "c.toml")[0] == 2

    (plan,) = taken
    assert (plan.spec.executor, plan.spec.log_to, plan.spec.jobs) == ("local", (), 1)
    found = {(m.measure, m.artifact.method) for m in plan.measurements}
    assert found == {("size", "magnitude"), ("pattern", "magnitude")}


def test_the_lock_of_an_artifact_ends_with_its_work(cli, cache, tmp_path, monkeypatch):
    """A second attempt in the same process gets it, while the first one's object is still there."""
    locks, real = [], worker.FileLock

    def note(path):
        locks.append(real(path, thread_local=False))
        return locks[-1]

    monkeypatch.setattr(worker, "FileLock", note)
    runs.workers_here(monkeypatch)
    assert cli(*PRUNE, tmp_path / "out")[0] == 0
    assert locks and not any(lock.is_locked for lock in locks)
