"""What killed runs left is swept by the next run, and what somebody holds is not."""

import errno
import os
import shutil
import subprocess
import sys

import pytest
from filelock import FileLock

from bench.system import cache, files, interpreter
from bench.system.cache import sweep_leftovers
from helpers import runs


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    return runs.own_cache(tmp_path, monkeypatch)


@pytest.fixture
def results(tmp_path):
    (tmp_path / "r/locks").mkdir(parents=True)
    return tmp_path / "r"


def run_killed(code):
    """Run code in a process that is killed in the middle."""
    text = f"import os\nfrom bench.system import cache\n{code}"
    subprocess.run([sys.executable, "-c", text], env=interpreter.environment(), check=False)


IN_FOLDER = "with cache.temporary_folder('a') as a: (a / 'file').touch(); os.kill(os.getpid(), 9)"


def test_marks_and_temporary_folders(folder, results):
    run_killed(IN_FOLDER)
    run_killed("with cache.in_use('b'): os.kill(os.getpid(), 9)")
    (left,) = (folder / "tmp").iterdir()
    assert len(list(cache.marks_dir().iterdir())) == 2
    with cache.temporary_folder("c") as held:
        sweep_leftovers(results)
        assert held.exists()
    assert not left.exists()
    assert not list(cache.marks_dir().iterdir())


def test_locks(results):
    free, held = (results / f"locks/{digit * 32}.lock" for digit in "ab")
    free.touch()
    with FileLock(held):
        sweep_leftovers(results)
        assert held.exists() and not free.exists()


def test_a_run_leaves_none_and_takes_those_of_others(results, folder, output, monkeypatch):
    run_killed(IN_FOLDER)
    (results / f"locks/{'a' * 32}.lock").touch()
    runs.workers_here(monkeypatch)
    output(
        "run", "--methods", "magnitude", "--measures", "size", *runs.flags(results, windows=None)
    )
    assert not list((results / "locks").iterdir())
    assert not [p for part in ("tmp", "held") for p in (folder / part).iterdir()]


def test_what_another_user_left_stops_no_run(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    theirs = tmp_path / ".download.tmp"
    theirs.mkdir()
    os.utime(theirs, (0, 0))
    monkeypatch.setattr(shutil, "rmtree", refuse)
    files.sweep(tmp_path)

    assert theirs.exists()
