"""What ends a run: the message names the disk that is full, and results that vanished are
noticed."""

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.execution import disk
from bench.results import store
from helpers import runs

pytestmark = pytest.mark.usefixtures("cache")


def full(file=None):
    return OSError(errno.ENOSPC, "No space left on device", file)


def test_a_file_in_the_cache_names_the_cache(cache):
    sentence = disk.describe_full_disk(full(str(cache / "tmp/x/model.safetensors")), Path("r"))

    assert sentence == (
        f"the disk is full (the cache: {cache}/tmp/x/model.safetensors): free some space (bench "
        "cache gc deletes what no run uses), then run the same command again"
    )


def test_a_file_elsewhere_is_named(cache):
    assert "full (r/records/a.json): free some space, then" in disk.describe_full_disk(
        full("r/records/a.json"), Path("r")
    )
    copied = OSError(errno.ENOSPC, "No space left on device", f"{cache}/a", None, "out/a")
    assert "full (out/a): free some space, then" in disk.describe_full_disk(copied)


def test_results_in_the_cache_are_none_of_the_users(cache, monkeypatch):
    monkeypatch.setattr(disk, "NEARLY_FULL", 0)

    assert f"full (the cache {cache}): free" in disk.describe_full_disk(full(), cache / "tmp/prune")
    assert (
        disk.describe_full_disk(full())
        == "the disk is full: free some space, then run the same command again"
    )


@pytest.mark.parametrize(("place", "word"), [("cache", "the cache"), ("r", "the results")])
def test_without_a_file_the_place_without_space_is_named(cache, tmp_path, monkeypatch, place, word):
    """safetensors names none."""
    nowhere = tmp_path / place
    (tmp_path / "r").mkdir()
    monkeypatch.setattr(
        disk.shutil,
        "disk_usage",
        lambda path: SimpleNamespace(free=0 if path == nowhere else 2**40),
    )

    assert disk.describe_full_disk(full(), tmp_path / "r").startswith(
        f"the disk is full ({word} {tmp_path / place}): "
    )


def test_where_no_place_is_full_both_are_named(cache, monkeypatch):
    """A quota, for example."""
    monkeypatch.setattr(disk, "NEARLY_FULL", 0)

    assert f"full (the cache {cache} or the results r)" in disk.describe_full_disk(
        full(), Path("r")
    )


@pytest.mark.parametrize("again", [False, True])
def test_results_that_vanish_end_the_run(tmp_path, cli, monkeypatch, again):
    """Made anew by somebody, too: the records that were in it are not there."""

    class Deleting(runs.Here):
        def lines(self):
            lines = list(super().lines())
            shutil.rmtree(tmp_path / "r")
            if again:
                (tmp_path / "r/records").mkdir(parents=True)
            return iter(lines)

    monkeypatch.setattr(store, "PATIENCE_S", 0.5)
    monkeypatch.setattr("bench.execution.processes.WorkerProcesses.start", lambda *_: Deleting())
    code, _, err = cli(
        "run", "--methods", "magnitude", "--measures", "size", *runs.flags(tmp_path / "r")
    )

    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith(
        f"bench: stopped: results folder {str(tmp_path / 'r')!r} vanished during the run"
    )
    assert "Traceback" not in err
