"""Methods that leave processes and threads behind, or write into the model they are given."""

import os
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from bench.system.cache import cache_dir
from helpers import runs
from helpers.faulty import PATIENCE_S

SOURCE = '''
import multiprocessing
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import ClassVar

from methods import Needs, Walk


def note(pid):
    with open(os.environ["LEFT"], "a") as file:
        print(pid, file=file)


def wait():
    note(os.getpid())
    time.sleep(600)


def fork():
    if os.fork() == 0:
        wait()


def noted():
    return open(os.environ["LEFT"]).read().split()


class _Method:
    needs: ClassVar[Needs] = Needs.NOTHING
    leaves_process: ClassVar[bool] = True

    def apply(self, model, job):
        walk = Walk(model, job)
        for visit in walk:
            visit.prune(job.pattern.keep(visit.weight.abs()))
        before = noted()
        self.leave(job)
        while self.leaves_process and noted() == before:
            time.sleep(0.02)
        self.end()
        return walk.outcome()

    def leave(self, job):
        pass

    def end(self):
        pass


@dataclass(frozen=True)
class Forks(_Method):
    """Its child has all pipes and locks of the worker."""

    def leave(self, job):
        fork()


@dataclass(frozen=True)
class Spawns(_Method):
    def leave(self, job):
        note(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)


@dataclass(frozen=True)
class Multiprocesses(_Method):
    """Python waits for such a child when it ends."""

    def leave(self, job):
        multiprocessing.get_context("fork").Process(target=wait, daemon=False).start()


@dataclass(frozen=True)
class Daemonizes(_Method):
    """Its grandchild has a session of its own and no parent."""

    def leave(self, job):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            fork()
            os._exit(0)
        os.waitpid(pid, 0)


@dataclass(frozen=True)
class Threads(_Method):
    """Python waits for such a thread when it ends."""

    leaves_process: ClassVar[bool] = False

    def leave(self, job):
        threading.Thread(target=time.sleep, args=(600,), daemon=False).start()


@dataclass(frozen=True)
class Dies(Daemonizes):
    """And the worker is gone before it could clear up."""

    def end(self):
        os._exit(3)


@dataclass(frozen=True)
class Scribbles(_Method):
    """Writes into the weights it was given, and sets their time back."""

    leaves_process: ClassVar[bool] = False

    def leave(self, job):
        file = next(job.source.glob("*.safetensors"))
        times = file.stat()
        with file.open("r+b") as stream:
            stream.seek(-4, 2)
            stream.write(b"abcd")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@dataclass(frozen=True)
class Touches(_Method):
    """Changes the time of a file, and nothing in it."""

    leaves_process: ClassVar[bool] = False

    def leave(self, job):
        next(job.source.glob("*.safetensors")).touch()
'''
LEAVING = ("forks", "spawns", "multiprocesses", "daemonizes", "threads", "dies")
FEW = ("daemonizes", "threads", "dies")
NAMES = {name: f"leaving:{name.capitalize()}" for name in (*LEAVING, "scribbles", "touches")}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return runs.distribution(tmp_path_factory.mktemp("leaving"), "leaving", SOURCE, methods=NAMES)


@pytest.fixture(autouse=True)
def world(site, tmp_path, monkeypatch):
    (tmp_path / "left").touch()
    monkeypatch.setenv("LEFT", str(tmp_path / "left"))
    yield from runs.world(site, tmp_path, monkeypatch)


@pytest.mark.full
@pytest.mark.parametrize("methods", [FEW, pytest.param(LEAVING, marks=pytest.mark.full)], ids=["few", "all"])
def test_what_methods_leave_neither_holds_the_run_nor_outlives_it(tmp_path, methods):
    flags = ["--methods", ",".join(methods), "--measures", "size", *runs.flags(tmp_path / "r")]
    run = runs.start("run", *flags)
    out, err = run.communicate(timeout=3 * PATIENCE_S)

    statuses = {k[0]: r.status for k, r in runs.records(tmp_path / "r").items()}
    assert statuses == dict.fromkeys((*methods, "dense"), "ok") | {"dies": "failed"}, err
    assert run.returncode == 1, out
    left = [int(line) for line in (tmp_path / "left").read_text().split()]
    assert len(left) == len(methods) - 1
    assert not [pid for pid in left if psutil.pid_exists(pid)]


def weights(folder: Path):
    return load_file(folder / "model.safetensors")


def test_writing_into_the_model_is_a_failed_row_and_nothing_is_measured_on_it(tmp_path):
    model = runs.tiny(tmp_path / "model")
    spec = runs.small(tmp_path / "r", models=(str(model),), methods=("scribbles", "magnitude"), measures=("size",))
    runs.run_here(spec)
    reasons = {k[0]: r.reason for k, r in runs.records(tmp_path / "r").items()}

    assert reasons["dense"] == ""
    assert "scribbles wrote into its source: model.safetensors changed in" in reasons["scribbles"]
    assert f"model folder {model} changed since this run began" in reasons["magnitude"]


def test_writing_into_a_cached_artifact_deletes_it(tmp_path):
    spec = runs.small(tmp_path / "r", methods=("scribbles:from=magnitude",), measures=("size",))
    runs.run_here(spec)
    (reason,) = {r.reason for k, r in runs.records(tmp_path / "r").items() if "scribbles" in k[0]}

    assert "wrote into its source" in reason
    assert [p.name for p in (cache_dir() / "artifacts").iterdir() if p.is_dir()] == [
        r.artifact[:32] for k, r in runs.records(tmp_path / "r").items() if k[0] == "dense"
    ][:1]


def test_a_file_whose_time_alone_changed_is_read_and_found_the_same(tmp_path):
    model = runs.tiny(tmp_path / "model")
    spec = runs.small(tmp_path / "r", models=(str(model),), methods=("touches", "magnitude"), measures=("size",))
    runs.run_here(spec)

    assert {r.status for r in runs.records(tmp_path / "r").values()} == {"ok"}


def test_a_model_that_is_changed_during_a_run_is_not_measured(tmp_path, monkeypatch):
    model = runs.tiny(tmp_path / "model")
    spec = runs.small(tmp_path / "r", models=(str(model),), measures=("size",))
    from bench.planning import plan

    planned = plan.make_plan(spec)
    file = model / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(plan, "make_plan", lambda *_, **__: planned)
    runs.run_here(spec)

    assert {r.status for r in runs.records(tmp_path / "r").values()} == {"failed"}
    assert os.listdir(tmp_path / "r" / "records")
