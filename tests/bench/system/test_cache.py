"""`bench cache gc` deletes what no process uses."""

import errno
import io
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from bench.execution import measure, prune
from bench.execution.build import Builder
from bench.execution.events import Events
from bench.inputs import corpora
from bench.planning import plan
from bench.system import cache
from bench.system.files import atomic_folder, atomic_write
from helpers import runs

SHARED = {"datasets", "digests", "tokens", "native", "models"}
PARTS = {"artifacts", "dense-states", "tmp", "logs"} | SHARED


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    return runs.own_cache(tmp_path, monkeypatch)


@pytest.fixture
def parts(folder):
    """Make an entry "used" of 5 bytes in each part. The returned function tells which parts still
    have it."""
    shutil.rmtree(folder / "native", ignore_errors=True)
    for part in PARTS:
        (folder / part / "used").mkdir(parents=True)
        (folder / part / "used/file").write_text("12345")
    return lambda: {p for p in PARTS if (folder / p / "used/file").exists()}


def test_what_nobody_uses_goes(parts):
    assert cache.gc(everything=False, days=1) == (0, 0)
    assert cache.gc(everything=False, days=0) == (40, 0)
    assert parts() == {"models"}
    assert cache.gc(everything=True, days=0)[1] == 0
    assert not parts()


def test_what_is_used_stays(folder, parts):
    """Entries with the name stay, and entries that runs share."""
    (folder / "logs/used.log").touch()
    (folder / "logs/other.log").touch()
    with cache.in_use("used"):
        cache.gc(everything=True, days=0)
        assert parts() == PARTS
        assert [p.name for p in sorted((folder / "logs").iterdir())] == ["used", "used.log"]
    with cache.in_use():
        assert cache.gc(everything=True, days=0) == (20, 5)
        assert parts() == SHARED
    assert not list(cache.marks_dir().iterdir())


def test_a_temporary_folder_stays_as_long_as_it_is_used(folder):
    with cache.temporary_folder("a") as name:
        cache.gc(everything=False, days=0)
        assert list((folder / "tmp").iterdir()) == [folder / "tmp" / name]
    assert not list((folder / "tmp").iterdir())


def test_fetches_that_broke_off_are_swept_when_a_day_old(folder):
    download = folder / "models/.big.abc.download"
    download.mkdir(parents=True)
    (download / "part").touch()
    cache.gc(everything=False, days=0)
    assert download.exists()
    os.utime(download, (0, 0))
    with cache.in_use():
        cache.gc(everything=False, days=0)
    assert download.exists()

    cache.gc(everything=False, days=0)

    assert not download.exists()


def test_a_folder_that_is_no_cache_is_left_alone(folder, tmp_path, monkeypatch, refused):
    """A home, for example: its own `tmp` or `data` is not a part of a cache."""
    home = tmp_path / "home"
    for kept in ("tmp/thesis/a.tex", "data/.git/config", "models/.venv/x", "notes.txt"):
        (home / kept).parent.mkdir(parents=True, exist_ok=True)
        (home / kept).touch()
        os.utime((home / kept).parent, (0, 0))
    before = {*home.rglob("*")}
    monkeypatch.setenv("CAST_BENCH_CACHE", str(home))
    for command in (("run", "--results", tmp_path / "r"), ("cache", "gc", "--all")):
        assert "has 'notes.txt', which is not of a cache" in refused(*command)
    (home / "notes.txt").unlink()
    cache.sweep_leftovers()
    assert before - {*home.rglob("*")} == {home / "notes.txt"}


@pytest.fixture
def collecting(monkeypatch):
    """Return a function that makes another function collect the cache before and after each
    call."""

    def wrap(owner, name):
        real = getattr(owner, name)

        def collected(*args):
            cache.gc(everything=True, days=0)
            done = real(*args)
            cache.gc(everything=True, days=0)
            return done

        monkeypatch.setattr(owner, name, collected)

    return wrap


@pytest.mark.parametrize(
    ("owner", "step"), [(Builder, "_apply"), (measure, "measure")], ids=["build", "measure"]
)
def test_a_worker_keeps_all_its_stages_while_it_builds_and_measures(
    tmp_path, collecting, owner, step
):
    """Use a last stage that changes nothing: it needs the weights of the stage before from the
    cache."""
    collecting(owner, step)
    got = runs.measured(tmp_path / "r", methods=("dense:from=magnitude",))
    assert {r.status for r in got.values()} == {"ok"}, [r.reason for r in got.values()]


def test_pull_keeps_what_it_has(folder, collecting, fake_hub, cli):
    fake_hub.files = ("en/c4-validation.00000-of-00008.json.gz",)
    collecting(corpora, "pull")
    assert cli("pull", "c4")[0] == 0
    assert list((folder / "data/allenai/c4").iterdir())


def test_a_stage_is_made_once_however_many_start_from_it(tmp_path, monkeypatch):
    """Two workers quantize one pruned model."""
    made, apply = [], Builder._apply
    one = threading.Lock()  # transformers loads one model at a time in a process

    def slowly(builder, artifact, before, workdir):
        made.append(artifact.stage_labels)
        time.sleep(0.5)
        with one:
            return apply(builder, artifact, before, workdir)

    monkeypatch.setattr(Builder, "_apply", slowly)
    spec = runs.small(tmp_path / "r", quantizers=("int8", "int4-rtn"))
    artifacts = [ms[0].artifact for ms in plan.make_plan(spec).artifacts().values()]
    workers = [
        threading.Thread(target=Builder(a, Events(io.StringIO())).build, args=(a,))
        for a in artifacts
        if a.method == "magnitude"
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert len(made) == 3 and made.count("magnitude") == 1, made
    assert len(list((cache.cache_dir() / "artifacts").glob("*/artifact.json"))) == 3


@pytest.mark.parametrize(
    ("free", "left"), [(9, {"old", "new", "used"}), (5, {"new", "used"}), (0, {"used"})]
)
def test_a_full_disk_costs_the_oldest_artifacts(folder, monkeypatch, free, left):
    """Before a stage is made: its size, and a tenth of a disk of 40 bytes, are free after it."""
    for age, name in enumerate(("new", "old", "used")):
        (folder / "artifacts" / name).mkdir(parents=True)
        (folder / "artifacts" / name / "file").write_text("12345")
        os.utime(folder / "artifacts" / name, (1e9 - age, 1e9 - age))
    disk = SimpleNamespace(total=40, free=free)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: disk)
    with cache.in_use("used"):
        cache.make_room(5)
    assert {path.name for path in (folder / "artifacts").iterdir()} == left


def test_a_stage_has_room_before_it_is_made(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr("bench.execution.build.make_room", sizes.append)
    [artifact] = [
        some[0].artifact
        for some in plan.make_plan(runs.small(tmp_path / "r")).artifacts().values()
        if some[0].artifact.method == "magnitude"
    ]
    Builder(artifact, Events(io.StringIO())).build(artifact)
    assert sizes == [artifact.sizes.parameters * 4.0]


def test_a_deletion_that_breaks_off_leaves_nothing_where_it_was(folder, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    (folder / "artifacts/a").mkdir(parents=True)
    (folder / "artifacts/a/artifact.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(cache.shutil, "rmtree", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cache.gc(everything=False, days=0)
    assert not (folder / "artifacts/a").exists() and list((folder / "tmp").iterdir())

    cache.sweep_leftovers()

    assert not list((folder / "tmp").iterdir())


def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with atomic_write(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"


def test_a_folder_is_made_where_a_link_leads_to(tmp_path):
    """Under the longest name that a file system takes, too."""
    target = tmp_path / ("x" * 255)
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    with atomic_folder(tmp_path / "link") as folder:
        (folder / "file").touch()
    assert (tmp_path / "link").is_symlink() and not list(tmp_path.glob(".*"))
    assert list(target.iterdir()) == [target / "file"]


def test_what_a_killed_process_left_of_a_folder_goes_when_it_is_made_again(tmp_path):
    code = f"""if 1:
        import os, pathlib
        from bench.system.files import atomic_folder
        with atomic_folder(pathlib.Path({str(tmp_path / "out[1]")!r})) as folder:
            (folder / "large").touch()
            os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = tmp_path.glob(".*")
    with atomic_folder(tmp_path / "out[1]2"), atomic_folder(tmp_path / "other"):
        assert left.exists(), "another folder's"
    with atomic_folder(tmp_path / "out[1]") as held:
        assert not left.exists()
        with atomic_folder(tmp_path / "out[1]"):
            assert held.exists(), "it is in use"


def test_a_pruned_model_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    runs.workers_here(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(prune, "_card", full)
        with pytest.raises(OSError, match="No space left"):
            prune.write_pruned(runs.small(tmp_path / "r"), tmp_path / "out")
    assert not (tmp_path / "out").exists()

    prune.write_pruned(runs.small(tmp_path / "r"), tmp_path / "out")

    assert (tmp_path / "out/README.md").exists()


def test_a_process_that_waits_for_the_lock_says_so(folder, monkeypatch):
    monkeypatch.setattr(cache, "NOTICE_S", 0.05)
    is_held, may_go, said = threading.Event(), threading.Event(), []

    def hear(text, **_):
        said.append(text)
        may_go.set()

    monkeypatch.setattr(cache, "print", hear, raising=False)

    def hold():
        with FileLock(folder / "gc.lock"):
            is_held.set()
            may_go.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    is_held.wait(60)
    with cache.in_use():
        assert said == [f"bench: waiting for another process that holds {folder / 'gc.lock'}"]
    other.join()


def test_what_vanishes_while_it_is_counted_has_no_size(tmp_path, monkeypatch):
    """A run deletes its temporary files at any time."""
    for name in ("gone", "stays"):
        (tmp_path / name).write_bytes(b"four")
    real = Path.is_file

    def is_file(path):
        found = real(path)
        if path.name == "gone":
            path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "is_file", is_file)
    assert cache.count_bytes(tmp_path) in (4, 8)
