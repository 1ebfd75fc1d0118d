"""Methods that leave processes and threads behind, or write into the model they are given."""

import os

import psutil
import pytest

from bench.system.cache import cache_dir
from helpers import plugins, runs
from helpers.faulty import PATIENCE_S

FUNCTIONS = '''
def note(pid):
    with open(os.environ["LEFT"], "a") as file:
        print(pid, file=file)


def wait():
    note(os.getpid())
    time.sleep(600)


def fork():
    if os.fork() == 0:
        wait()


def daemonize():
    """The grandchild has its own session and no parent."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        fork()
        os._exit(0)
    os.waitpid(pid, 0)


def leave(start):
    """Call start, and wait until the process that it leaves has noted its id."""
    file = Path(os.environ["LEFT"])
    before = file.read_text()
    start()
    while file.read_text() == before:
        time.sleep(0.02)


def weights(job):
    return next(job.source.glob("*.safetensors"))


def scribble(file):
    """Change the last bytes, and set the time back."""
    times = file.stat()
    with file.open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(b"abcd")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
'''
LEAVING = {
    "daemonizes": "leave(daemonize)",
    "dies": "leave(daemonize)\nos._exit(3)",  # the worker is gone before it could clear up
}
"""Things that each method leaves running or on disk."""
WRITING = {"scribbles": "scribble(weights(job))"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaving")
    return plugins.install(folder, "leaving", LEAVING | WRITING, preamble=FUNCTIONS)


@pytest.fixture(autouse=True)
def world(site, tmp_path, monkeypatch):
    (tmp_path / "left").touch()
    monkeypatch.setenv("LEFT", str(tmp_path / "left"))
    yield from runs.world(site, tmp_path, monkeypatch)


@pytest.mark.full
def test_what_methods_leave_neither_holds_the_run_nor_outlives_it(tmp_path):
    flags = ["--methods", ",".join(LEAVING), "--measures", "size"]
    flags += runs.flags(tmp_path / "r", windows=None)
    run = runs.start("run", *flags)
    out, err = run.communicate(timeout=3 * PATIENCE_S)

    statuses = {k[0]: r.status for k, r in runs.records(tmp_path / "r").items()}
    assert statuses == dict.fromkeys((*LEAVING, "dense"), "ok") | {"dies": "failed"}, err
    assert run.returncode == 1, out
    left = [int(line) for line in (tmp_path / "left").read_text().split()]
    assert len(left) == len(LEAVING)
    assert not [pid for pid in left if psutil.pid_exists(pid)]


def test_writing_into_the_model_is_a_failed_row_and_nothing_is_measured_on_it(tmp_path):
    model = runs.tiny(tmp_path / "model")
    asked = {"models": (str(model),), "methods": ("scribbles", "magnitude"), "measures": ("size",)}
    reasons = {k[0]: r.reason for k, r in runs.measured(tmp_path / "r", **asked).items()}
    assert reasons["dense"] == ""
    assert "scribbles wrote into its source: model.safetensors changed in" in reasons["scribbles"]
    assert f"model folder {model} changed since this run began" in reasons["magnitude"]


def test_writing_into_a_cached_artifact_deletes_it(tmp_path):
    got = runs.measured(tmp_path / "r", methods=("scribbles:from=magnitude",), measures=("size",))
    (reason,) = {r.reason for k, r in got.items() if "scribbles" in k[0]}
    assert "wrote into its source" in reason
    left = [path.name for path in (cache_dir() / "artifacts").iterdir() if path.is_dir()]
    assert left == [got["dense", None, "size"].artifact[:32]]


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
